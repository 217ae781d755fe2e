"""Anthropic Messages: direct, on Vertex and through Bedrock's InvokeModel. The backend adds `anthropic_version` there.

Differences that a hosted Claude makes are read from shapes: AWS's errors by their header, Google's by their status word,
InvokeModel's stream by its frames ("chunk", with one event of this language in base64).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gemini_api.translators import (
    aws,
    blocked,
    capabilities,
    chunks,
    claude,
    errors,
    media,
    schema,
    thinking,
    tools,
    turns,
    usage,
)
from gemini_api.translators.base import Json, Letter, Memo, Target
from gemini_api.translators.losses import Losses, check_common, drop_knobs
from gemini_api.translators.names import LIMITS, Names
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal
from routing.framing import Frame

language = "anthropic_messages"
BACKEND = "Anthropic Messages"
FAMILY = "anthropic"  # signatures hold for every place that hosts a Claude, whatever the account

_MAX_TOKENS = 8192  # for models we do not know; the field is mandatory
_MOST_STRICT = 20
_ROW = "generationConfig."
_UNKNOWN_KNOBS = ("seed", "presencePenalty", "frequencyPenalty", "mediaResolution")


# --- The letter -------------------------------------------------------------------------------------------------------


def request(body: Json, target: Target) -> Letter:
    losses = Losses(target, BACKEND)
    check_common(body, losses)
    config: Json = body.get("generationConfig", {})
    caps = capabilities.claude(target)
    names = Names(LIMITS[language])
    memo = Memo(
        model=target.model,
        names=names.back,
        thoughts=thinking.wants_thoughts(body),
        scope=target.scope,
        tenant=target.tenant,
    )
    most = _most(config, caps)
    payload, sealed, plan = _prompt(body, target, caps, names, memo, most, losses)
    payload["max_tokens"] = most
    if target.stream:
        payload["stream"] = True
    payload |= claude.sampling(config, caps, plan.thinks, losses)
    drop_knobs(config, _UNKNOWN_KNOBS, losses)
    if config.get("candidateCount", 1) > 1:
        losses.refuse(_ROW + "candidateCount")
    if config.get("responseLogprobs"):
        losses.refuse(_ROW + "responseLogprobs")
    stops = config.get("stopSequences", ())
    if all(stop.strip() for stop in stops):
        payload |= {"stop_sequences": stops} if stops else {}
    else:
        memo.stops = tuple(stops)  # the vendor refuses white space alone: all of them are found here
    return Letter(payload, memo, losses.paths, sealed)


def count_request(body: Json, target: Target) -> Letter:
    """For POST /v1/messages/count_tokens: what the model reads, nothing about how it answers."""
    losses = Losses(replace(target, strict=False), BACKEND)
    caps = capabilities.claude(target)
    memo = Memo(model=target.model, action="count")
    most = _most(body.get("generationConfig", {}), caps)
    payload, _, _ = _prompt(body, target, caps, Names(LIMITS[language]), memo, most, losses)
    return Letter(payload, memo, losses.paths)


def count_response(answer: Json) -> int:
    return usage.number(answer.get("input_tokens", answer.get("inputTokens")))  # AWS answers in its own spelling


def _most(config: Json, caps: capabilities.Row) -> int:
    """max_tokens: what the client asks for, as far as the model can; else all it can."""
    asked, can = config.get("maxOutputTokens"), caps["max_output"]
    if not asked:
        return can or _MAX_TOKENS
    return min(asked, can) if can else int(asked)


def _prompt(
    body: Json, target: Target, caps: capabilities.Row, names: Names, memo: Memo, most: int, losses: Losses
) -> tuple[Json, bool, claude.Plan]:
    """What the model reads, and how it shall think. And whether thinking of an earlier turn is among it."""
    opened = claude.reader(body, FAMILY, target, None) if caps["thinking"] else None
    said = turns.read(body, losses, opaque=opened, drop_blank=True)
    turns.lead_with_user(said, losses)
    choice = tools.choice(body)
    plan = claude.plan(body, caps, choice, said, most, losses)
    messages, sealed = _messages(said, names, can_fetch=_can_fetch(target), losses=losses)
    if said[-1].role == "model":
        _continued(messages, caps, losses)
    payload: Json = {"model": target.model, "messages": messages}
    system = turns.system_text(body, losses)
    output = {"effort": plan.effort} if plan.effort else {}
    told = _format(output, body.get("generationConfig", {}), caps, memo, losses)
    if system := "\n\n".join(filter(None, (system, told))):
        payload["system"] = [{"type": "text", "text": system}]
    _tools(payload, body, choice, plan, said, caps, names, losses)
    if plan.thinking is not None:
        payload["thinking"] = plan.thinking
    if output:
        payload["output_config"] = output
    return payload, sealed, plan


def _can_fetch(target: Target) -> bool:
    """Hosted elsewhere, Claude takes no URLs. Only those connections have a region or a publisher."""
    return not (target.options.get("region") or target.options.get("publisher"))


def _messages(said: list[turns.Turn], names: Names, *, can_fetch: bool, losses: Losses) -> tuple[list[Json], bool]:
    messages: list[Json] = []
    sealed = False
    takes = media.TAKES[language] if can_fetch else _INLINE
    for turn in said:
        if turn.role == "user":
            blocks = [_result(result, takes, losses) for result in turn.results]
            blocks += [_block(item, takes, losses) for item in turn.items]
            messages.append({"role": "user", "content": blocks})
            continue
        blocks = []
        for item in turn.items:
            if isinstance(item, turns.Opaque):
                blocks += _thought_blocks(item)
                sealed = True
            elif isinstance(item, turns.Call):
                blocks.append({"type": "tool_use", "id": item.id, "name": names.there(item.name), "input": item.args})
            else:
                blocks.append(_block(item, takes, losses))
        messages.append({"role": "assistant", "content": blocks})
    return messages, sealed


def _thought_blocks(item: turns.Opaque) -> list[Json]:
    """Byte for byte what the vendor once said: it checks."""
    return [
        {"type": "thinking", "thinking": block["x"], "signature": block["g"]}
        if block.get("t") == "thinking"
        else {"type": "redacted_thinking", "data": block["d"]}
        for block in item.blocks
    ]


def _continued(messages: list[Json], caps: capabilities.Row, losses: Losses) -> None:
    """The last turn is the model's, to be continued; it must not end in white space."""
    if not caps["prefill"]:
        losses.refuse("contents", "This model cannot continue a turn of its own; the last content must be the user's.")
    last = messages[-1]["content"][-1]
    if last["type"] == "text":
        last["text"] = last["text"].rstrip()


def _result(result: turns.Result, takes: frozenset[tuple[media.Place, media.Kind]], losses: Losses) -> Json:
    text = result.text()
    content: str | list[Json] = text
    if result.media:
        content = [{"type": "text", "text": text}] if text.strip() else []
        content += [_block(item, takes, losses) for item in result.media]
    block: Json = {"type": "tool_result", "tool_use_id": result.id, "content": content}
    if result.failed:
        block["is_error"] = True
    return block


def _block(item: turns.Item, takes: frozenset[tuple[media.Place, media.Kind]], losses: Losses) -> Json:
    match item:
        case turns.Text(text):
            return {"type": "text", "text": text}
        case media.Media():
            media.check(item, takes, losses)
            if item.detail:
                losses.drop("contents.parts.mediaResolution")
            return _MEDIA[item.kind](item)
    raise TypeError(f"No turn shows a {type(item).__name__}.")


def _image(item: media.Media) -> Json:
    return {"type": "image", "source": _source(item)}


def _pdf(item: media.Media) -> Json:
    return {"type": "document", "source": _source(item), **({"title": item.name} if item.name else {})}


def _source(item: media.Media) -> Json:
    if item.uri:
        return {"type": "url", "url": item.uri}
    return {"type": "base64", "media_type": item.mime, "data": item.data}


def _text_file(item: media.Media) -> Json:
    text = item.decoded_text()
    return {"type": "text", "text": f"File: {item.name}\n{text}" if item.name else text if text.strip() else "."}


_MEDIA: dict[str, Callable[[media.Media], Json]] = {"image": _image, "pdf": _pdf, "text": _text_file}
_INLINE = frozenset(taken for taken in media.TAKES[language] if taken[0] == "inline")


def _format(output: Json, config: Json, caps: capabilities.Row, memo: Memo, losses: Losses) -> str:
    """Writes output_config.format where the model and the schema allow it; else returns what to tell the model."""
    wanted = schema.answer_format(config)
    if not wanted.mode:
        return ""
    fitting = schema.for_anthropic(wanted.schema) if wanted.schema is not None and caps["structured"] else None
    if fitting is not None:
        memo.wrapped = wanted.wrapped
        output["format"] = {"type": "json_schema", "schema": fitting}
        return ""
    if wanted.schema is None:
        losses.drop(_ROW + "responseMimeType", f"{BACKEND} has no JSON mode without a schema.")
    else:
        losses.drop(_ROW + ("responseJsonSchema" if "responseJsonSchema" in config else "responseSchema"))
    memo.json_fallback = True
    return wanted.in_words


def _tools(
    payload: Json,
    body: Json,
    choice: tools.Choice,
    plan: claude.Plan,
    said: list[turns.Turn],
    caps: capabilities.Row,
    names: Names,
    losses: Losses,
) -> None:
    declared = tools.declared(body, losses)
    if not declared:
        called = dict.fromkeys(call.name for turn in said if turn.role == "model" for call in turn.calls)
        if called:  # tool blocks in the history need declarations, whatever is asked now
            payload["tools"] = [{"name": names.there(name), "input_schema": {"type": "object"}} for name in called]
            payload["tool_choice"] = {"type": "none"}
        return
    one = choice.allowed[0] if plan.forced and len(choice.allowed) == 1 else ""
    if choice.allowed and not one:
        declared = [each for each in declared if each.name in choice.allowed]
    strictly = choice.mode == "VALIDATED" and caps["strict_tools"] and len(declared) <= _MOST_STRICT
    payload["tools"] = [_tool(each, names, strictly) for each in declared]
    tools.check_validated(choice.mode, (("strict" in each, each["input_schema"]) for each in payload["tools"]), losses)
    if choice.mode == "NONE":
        payload["tool_choice"] = {"type": "none"}
    elif one:
        payload["tool_choice"] = {"type": "tool", "name": names.there(one)}
    elif plan.forced:
        payload["tool_choice"] = {"type": "any"}


def _tool(declared: tools.Declaration, names: Names, strictly: bool) -> Json:
    tool: Json = {"name": names.there(declared.name)}
    if declared.description:
        tool["description"] = declared.description
    fitting = schema.for_anthropic(declared.parameters) if strictly else None
    if fitting is None:
        return tool | {"input_schema": declared.parameters}
    return tool | {"input_schema": fitting, "strict": True}


# --- The answer -------------------------------------------------------------------------------------------------------

REASONS = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "model_context_window_exceeded": "MAX_TOKENS",
    "refusal": "SAFETY",
}


@errors.guarded
def response(answer: Json, memo: Memo) -> Json:
    if answer.get("type") == "error":
        raise _failure(answer)
    if not isinstance(answer.get("content"), list):
        raise UpstreamError("protocol", "The answer has no content.")
    building = chunks.Answer(memo, FAMILY)
    _named(building, answer)
    content = answer["content"] or [{}]
    last, whole = content[-1], answer.get("stop_reason") != "max_tokens"
    for block in content:
        match block:
            case {"type": "text", "text": str(text)}:
                building.text(text)
            case {"type": "thinking"}:
                building.thought(block.get("thinking") or "")
                _keep(building, block.get("thinking") or "", block.get("signature") or "")
            case {"type": "redacted_thinking", "data": str(data)}:
                building.opaque({"t": "redacted", "d": data})
            case {"type": "tool_use", "input": {}} if not (block["input"] or whole or block is not last):
                pass  # the limit cut it off before its first argument
            case {"type": "tool_use"}:
                building.call(block.get("id") or "", block.get("name") or "", block.get("input"))
    if counted := answer.get("usage"):
        building.usage(usage.anthropic(counted))
    _finish(building, answer)
    return building.whole()


class Stream:
    """One stream's memory: the block that is open, what was counted so far, and how the answer ended."""

    def __init__(self, memo: Memo) -> None:
        self.ended = False
        self._answer = chunks.Answer(memo, FAMILY)
        self._block: Json = {}  # as it started
        self._pieces: list[str] = []  # of its thinking, or of its arguments
        self._signature = ""
        self._counted: Json = {}
        self.counted: Json | None = None
        self._reason: Json = {}  # the delta with stop_reason
        self._complete = False
        self._bare_call: tuple[str, str] | None = None  # a call without arguments: none, or cut off before them

    @errors.guarded
    def feed(self, frame: Frame) -> list[Json]:
        if self.ended:
            return []
        if frame.exception:
            raise aws.exception(frame)
        event = _event(frame)
        hear = _EVENTS.get(event.get("type", ""))
        if hear is None:
            if "error" in event:
                raise _failure(event)
            return []  # pings, and whatever the vendor adds next
        return hear(self, event)

    @errors.guarded
    def finish(self) -> list[Json]:
        answer = self._answer
        if not answer.stopped:
            # Without `message_stop`, a stop reason is as good: nothing is said after it.
            if not (self._complete or self._reason.get("stop_reason")):
                raise UpstreamError("cut", "The stream ended before the message was complete.")
            if self._reason.get("stop_reason") != "max_tokens":
                self._say_bare_call()
            _finish(answer, self._reason)
            if self._counted:
                answer.usage(usage.anthropic(self._counted))
        self.ended = True
        return answer.end()

    def _delta(self, event: Json) -> list[Json]:
        delta = event["delta"]
        match delta.get("type"):
            case "text_delta":
                answer = self._answer
                answer.text(delta["text"])
                self.ended = answer.stopped
                return answer.take()
            case "input_json_delta":
                self._pieces.append(delta["partial_json"])
            case "thinking_delta":
                self._pieces.append(delta["thinking"])
                self._answer.thought(delta["thinking"])
                return self._answer.take()
            case "signature_delta":
                self._signature += delta["signature"]
        return []

    def _opened(self, event: Json) -> list[Json]:
        self._say_bare_call()
        block = self._block = event.get("content_block") or {}
        self._pieces, self._signature = [], block.get("signature") or ""
        if block.get("type") == "text" and block.get("text"):
            self._answer.text(block["text"])
        elif block.get("type") == "thinking" and block.get("thinking"):
            self._pieces.append(block["thinking"])
            self._answer.thought(block["thinking"])
        return self._answer.take()

    def _closed(self, event: Json) -> list[Json]:
        block, self._block = self._block, {}
        answer = self._answer
        match block.get("type"):
            case "tool_use":
                # The block starts with an empty input; one that starts with more has no deltas.
                arguments: Any = "".join(self._pieces) or block.get("input")
                id, name = block.get("id") or "", block.get("name") or ""
                if arguments:
                    answer.call(id, name, arguments)
                else:
                    self._bare_call = (id, name)
            case "thinking":
                _keep(answer, "".join(self._pieces), self._signature)
            case "redacted_thinking":
                answer.opaque({"t": "redacted", "d": block.get("data") or ""})
        return answer.take()

    def _say_bare_call(self) -> None:
        if self._bare_call is not None:
            (id, name), self._bare_call = self._bare_call, None
            self._answer.call(id, name, None)

    def _begun(self, event: Json) -> list[Json]:
        message = event.get("message") or {}
        _named(self._answer, message)
        self._count(message.get("usage"))
        return []

    def _ending(self, event: Json) -> list[Json]:
        self._reason = event.get("delta") or {}
        self._count(event.get("usage"))
        return []

    def _end(self, event: Json) -> list[Json]:
        self._complete = True
        metrics = event.get("amazon-bedrock-invocationMetrics")
        if metrics and not self._counted:
            self._counted = {
                "input_tokens": metrics.get("inputTokenCount"),
                "output_tokens": metrics.get("outputTokenCount"),
            }
        return []

    def _failed(self, event: Json) -> list[Json]:
        raise _failure(event)

    def _count(self, counted: Json | None) -> None:
        """Counts are cumulative: the last that says something wins."""
        if counted := usage.mapping(counted):
            self._counted |= {name: value for name, value in counted.items() if value is not None}
            self.counted = usage.anthropic(self._counted)


_EVENTS: dict[str, Callable[[Stream, Json], list[Json]]] = {
    "content_block_delta": Stream._delta,
    "content_block_start": Stream._opened,
    "content_block_stop": Stream._closed,
    "message_start": Stream._begun,
    "message_delta": Stream._ending,
    "message_stop": Stream._end,
    "error": Stream._failed,
}


def _event(frame: Frame) -> Json:
    try:
        event = json.loads(frame.data)
        if frame.event == "chunk":
            event = json.loads(base64.b64decode(event["bytes"]))
    except (json.JSONDecodeError, binascii.Error, KeyError, TypeError):
        event = None
    if not isinstance(event, dict):
        raise UpstreamError("protocol", "An event of the stream is not a JSON object.")
    return event


def _named(building: chunks.Answer, message: Json) -> None:
    if found := message.get("id"):
        building.response_id = str(found)
    if found := message.get("model"):
        building.model_version = str(found)


def _keep(building: chunks.Answer, text: str, signature: str) -> None:
    """A thinking block for the way back. One that was cut off has no signature, and the vendor would refuse it."""
    if signature:
        building.opaque({"t": "thinking", "x": text, "g": signature})


def _finish(building: chunks.Answer, said: Json) -> None:
    why = said.get("stop_reason") or "end_turn"
    reason, message = REASONS.get(why, "OTHER"), ""
    if why == "refusal":
        told = (said.get("stop_details") or {}).get("explanation") or ""
        message = told or "refusal"
        if not building.started:
            building.text(told or blocked.DECLINED)
    elif reason == "OTHER" or why == "model_context_window_exceeded":
        message = why
    building.finish(reason, message)


# --- Refusals ---------------------------------------------------------------------------------------------------------

_WORDS: dict[str, Kind] = {
    "invalid_request_error": "invalid",
    "authentication_error": "credential",
    "permission_error": "credential",
    "billing_error": "billing",
    "not_found_error": "not_found",
    "request_too_large": "invalid",
    "rate_limit_error": "rate_limited",
    "api_error": "server",
    "timeout_error": "timeout",
    "overloaded_error": "unavailable",
}


DISPENSABLE = claude.SAMPLING


def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json:
    if aws.is_ours(refusal):
        return _refined(aws.understood(refusal), errors.read(refusal.body).message)
    said = _inner(errors.read(refusal.body))
    return _refined(errors.understood(refusal, said, _WORDS, request_id_header="request-id"), said.message)


def _inner(said: errors.ErrorBody) -> errors.ErrorBody:
    """On Vertex, Google's error may carry the vendor's own as JSON text in its message."""
    return errors.read(said.message.encode()) if said.message.startswith('{"type":"error"') else said


def _failure(event: Json) -> UpstreamError:
    """An error inside an answer or a stream."""
    said = _inner(errors.read_value(event))
    return _refined(errors.of_kind(_WORDS.get(said.type, "server"), said), said.message)


def _refined(understood: UpstreamError, message: str) -> UpstreamError:
    """Some refusals say only in words what they are about."""
    if understood.kind != "invalid":
        return understood
    if errors.is_about_room(message):
        return replace(understood, kind="too_long", message=errors.TOO_LONG)
    if "credit balance" in message:
        return replace(understood, kind="billing")
    understood.drop_field = claude.droppable(message)
    return understood
