"""OpenAI Responses, and everybody who speaks it (Azure). `stop` has no word here: the scanner of `chunks` finds it.

What this language forgets unless told: `store: false` (the vendor's default is to keep everything), `strict` on every
function (its default is true), the encrypted reasoning of a reasoning model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gemini_api import signatures
from gemini_api.translators import blocked, capabilities, chunks, errors, media, schema, thinking, tools, turns, usage
from gemini_api.translators.base import Json, Letter, Memo, Target
from gemini_api.translators.chat_completions import (
    ERROR_WORDS,
    embed_request,
    embed_response,
    embed_usage,
)
from gemini_api.translators.losses import Losses, check_common, drop_knobs
from gemini_api.translators.names import LIMITS, Names
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal
from routing.framing import Frame

# The same account serves embeddings, and in one way.
__all__ = [
    "DISPENSABLE",
    "Stream",
    "count_request",
    "count_response",
    "embed_request",
    "embed_response",
    "embed_usage",
    "error",
    "language",
    "request",
    "response",
]

language = "responses"
BACKEND = "OpenAI Responses"
FAMILY = "openai"  # in signature envelopes; which account may read them back is a matter of their scope

_LEAST_OUTPUT = 16  # the vendor refuses less
_ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
_ROW = "generationConfig."
# Knobs without a name here: left out, and said.
_UNKNOWN_KNOBS = ("topK", "seed", "presencePenalty", "frequencyPenalty")


# --- The letter -------------------------------------------------------------------------------------------------------


def request(body: Json, target: Target) -> Letter:
    losses = Losses(target, BACKEND)
    check_common(body, losses)
    caps = capabilities.of("openai", target)
    config: Json = body.get("generationConfig", {})
    names = Names(LIMITS[language])
    memo = Memo(
        model=target.model,
        names=names.back,
        thoughts=thinking.wants_thoughts(body),
        stops=tuple(config.get("stopSequences", ())),
        scope=target.scope,
        tenant=target.tenant,
    )
    payload, sealed = _prompt(body, target, caps, names, losses)
    effort = _reasoning(payload, config, caps, losses)
    if caps["encrypted_reasoning"]:
        payload["include"] = [_ENCRYPTED]
    _sampling(payload, config, caps, effort, losses)
    _limits(payload, config, caps, losses)
    _format(payload, config, caps, memo, losses)
    payload["store"] = False
    if target.stream:
        payload["stream"] = True
    return Letter(payload, memo, losses.paths, sealed)


def count_request(body: Json, target: Target) -> Letter:
    """For POST /responses/input_tokens: what the model reads, nothing about how it answers."""
    losses = Losses(replace(target, strict=False), BACKEND)
    caps = capabilities.of("openai", target)
    config: Json = body.get("generationConfig", {})
    memo = Memo(model=target.model, action="count")
    payload, _ = _prompt(body, target, caps, Names(LIMITS[language]), losses)
    _reasoning(payload, config, caps, losses)
    _format(payload, config, caps, memo, losses)
    return Letter(payload, memo, losses.paths)


def count_response(answer: Json) -> int:
    return usage.number(answer.get("input_tokens"))


def _prompt(body: Json, target: Target, caps: capabilities.Row, names: Names, losses: Losses) -> tuple[Json, bool]:
    """What the model reads: instructions, input, tools. And whether reasoning of an earlier turn is among it."""

    def opened(signature: str) -> list[Json]:
        return signatures.blocks_for(signature, family=FAMILY, scope=target.scope, tenant=target.tenant)

    said = turns.read(body, losses, opaque=opened, short_ids=caps["short_ids"])
    if said[-1].role == "model":
        losses.drop("contents")  # a prefill: the model answers it instead of going on with it
    detail = media.DETAILS.get(body.get("generationConfig", {}).get("mediaResolution", ""), "auto")
    items, sealed = _input(said, names, detail, losses, reasoning=caps["encrypted_reasoning"])
    payload: Json = {"model": target.model}
    if system := turns.system_text(body, losses):
        payload["instructions"] = system
    payload["input"] = items
    _tools(payload, body, caps, names, losses)
    return payload, sealed


def _input(
    said: list[turns.Turn], names: Names, detail: str, losses: Losses, *, reasoning: bool
) -> tuple[list[Json], bool]:
    items: list[Json] = []
    sealed = False
    for turn in said:
        if turn.role == "user":
            items.extend(_output(result, detail, losses) for result in turn.results)
            if turn.items:
                items.append({"role": "user", "content": [_content(item, detail, losses) for item in turn.items]})
        else:
            spoken = _spoken(turn, names, reasoning=reasoning)
            sealed = sealed or any(item.get("type") == "reasoning" for item in spoken)
            items.extend(spoken)
    return items, sealed


def _spoken(turn: turns.Turn, names: Names, *, reasoning: bool) -> list[Json]:
    """A turn of the model. Reasoning that nothing follows is left out: the vendor refuses it."""
    items: list[Json] = []
    phase = ""
    for item in turn.items:
        match item:
            case turns.Opaque(kept):
                for block in kept:
                    if block.get("t") == "phase":
                        phase = block["v"]
                    elif reasoning and block.get("e"):
                        items.append(_reasoning_item(block))
            case turns.Text(text):
                # A plain string: the only form of an assistant's message without an item id, which would make the
                # vendor look for stored neighbours.
                items.append({"role": "assistant", "content": text, **({"phase": phase} if phase else {})})
                phase = ""
            case turns.Call(id, name, args):
                arguments = json.dumps(args).decode()
                items.append(
                    {"type": "function_call", "call_id": id, "name": names.there(name), "arguments": arguments}
                )
    while items and items[-1].get("type") == "reasoning":
        items.pop()
    return items


def _reasoning_item(block: Json) -> Json:
    summary = [{"type": "summary_text", "text": text} for text in block.get("sum", ())]
    return {"type": "reasoning", "id": block["id"], "summary": summary, "encrypted_content": block["e"]}


def _output(result: turns.Result, detail: str, losses: Losses) -> Json:
    """A function's result; this language has no error flag, so a failure is told whole."""
    text = result.text(whole_error=True)
    output: str | list[Json] = text
    if result.media:
        output = [{"type": "input_text", "text": text}]
        output += [_content(item, detail, losses) for item in result.media]
    return {"type": "function_call_output", "call_id": result.id, "output": output}


def _content(item: turns.Item, detail: str, losses: Losses) -> Json:
    match item:
        case turns.Text(text):
            return {"type": "input_text", "text": text}
        case media.Media():
            media.check(item, media.TAKES[language], losses)
            return _MEDIA[item.kind](item, detail)
    raise TypeError(f"A user's turn holds no {type(item).__name__}.")


def _image(item: media.Media, detail: str) -> Json:
    return {"type": "input_image", "image_url": item.uri or item.data_url, "detail": item.detail or detail}


def _pdf(item: media.Media, detail: str) -> Json:
    if item.uri:
        return {"type": "input_file", "file_url": item.uri}
    return {"type": "input_file", "filename": item.name or "file.pdf", "file_data": item.data_url}


def _text_file(item: media.Media, detail: str) -> Json:
    text = item.decoded_text()
    return {"type": "input_text", "text": f"File: {item.name}\n{text}" if item.name else text}


_MEDIA: dict[str, Callable[[media.Media, str], Json]] = {"image": _image, "pdf": _pdf, "text": _text_file}


def _tools(payload: Json, body: Json, caps: capabilities.Row, names: Names, losses: Losses) -> None:
    declared = tools.declared(body, losses)
    if not declared:
        return
    choice = tools.choice(body)
    strictly = choice.mode == "VALIDATED" and caps["strict_tools"]
    listed = choice.allowed and not caps["allowed_tools"]
    payload["tools"] = [
        _function(each, names, strictly, losses) for each in declared if not listed or each.name in choice.allowed
    ]
    tools.check_validated(choice.mode, ((each["strict"], each["parameters"]) for each in payload["tools"]), losses)
    chosen = _chosen(choice, [names.there(name) for name in choice.allowed], listed=bool(listed))
    if chosen is not None:
        payload["tool_choice"] = chosen


def _function(declared: tools.Declaration, names: Names, strictly: bool, losses: Losses) -> Json:
    parameters = schema.openai_parameters(declared.parameters, "tools.functionDeclarations.parameters", losses)
    strict = schema.strict(parameters) if strictly else None
    function: Json = {"type": "function", "name": names.there(declared.name)}
    if declared.description:
        function["description"] = declared.description
    return function | {"parameters": strict or parameters, "strict": strict is not None}


def _chosen(choice: tools.Choice, allowed: list[str], *, listed: bool) -> Json | str | None:
    """`tool_choice`; None leaves it to the model. listed: only the allowed functions are declared anyway."""
    if choice.mode == "NONE":
        return "none"
    if choice.mode == "ANY" and len(allowed) == 1:
        return {"type": "function", "name": allowed[0]}
    if allowed and not listed:
        functions = [{"type": "function", "name": name} for name in allowed]
        return {"type": "allowed_tools", "mode": "required" if choice.mode == "ANY" else "auto", "tools": functions}
    return "required" if choice.mode == "ANY" else None


def _reasoning(payload: Json, config: Json, caps: capabilities.Row, losses: Losses) -> str:
    """Writes `reasoning`. Returns the effort the model will think with ("" = it does not think at all)."""
    asked: Json = config.get("thinkingConfig", {})
    effort, efforts = thinking.effort(asked), caps["efforts"]
    if not efforts:
        if effort not in (None, "off") or asked.get("includeThoughts"):
            losses.drop(_ROW + "thinkingConfig")
        return ""
    told: Json = {}
    if effort is not None:
        snapped = thinking.snap(effort, efforts)
        if effort == "off" and snapped != "off":
            losses.drop(_ROW + "thinkingConfig", "This model cannot stop thinking.")
        effort = snapped
        told["effort"] = "none" if effort == "off" else effort
    if asked.get("includeThoughts") and effort != "off":
        told["summary"] = "auto"
    if told:
        payload["reasoning"] = told
    return effort or str(caps["default_effort"])


def _sampling(payload: Json, config: Json, caps: capabilities.Row, effort: str, losses: Losses) -> None:
    takes = caps["sampling"] == "yes" or (caps["sampling"] == "off_only" and effort == "off")
    for here, there in (("temperature", "temperature"), ("topP", "top_p")):
        value = config.get(here)
        if value is None:
            continue
        if takes:
            payload[there] = value
        elif value != 1:  # 1 is what such a model does anyway
            losses.drop(_ROW + here)
    drop_knobs(config, _UNKNOWN_KNOBS, losses)


def _limits(payload: Json, config: Json, caps: capabilities.Row, losses: Losses) -> None:
    if config.get("candidateCount", 1) > 1:
        losses.refuse(_ROW + "candidateCount")
    if most := config.get("maxOutputTokens"):
        if most < _LEAST_OUTPUT:
            losses.drop(_ROW + "maxOutputTokens", f"The least that {BACKEND} takes is {_LEAST_OUTPUT}.")
        payload["max_output_tokens"] = max(most, _LEAST_OUTPUT)
    if config.get("responseLogprobs"):
        if not caps["logprobs"]:
            losses.refuse(_ROW + "responseLogprobs", "This model does not give log probabilities.")
        payload["top_logprobs"] = config.get("logprobs", 0)
        payload["include"] = [*payload.get("include", ()), _LOGPROBS]


def _format(payload: Json, config: Json, caps: capabilities.Row, memo: Memo, losses: Losses) -> None:
    wanted = schema.answer_format(config)
    if not wanted.mode:
        return
    if wanted.schema is not None and caps["json_schema"]:
        memo.wrapped = wanted.wrapped
        strict = schema.strict(wanted.schema)
        payload["text"] = {
            "format": {
                "type": "json_schema",
                "name": "response",
                "schema": strict or wanted.schema,
                "strict": strict is not None,
            }
        }
        return
    if caps["json_object"] and wanted.mode == "json":
        payload["text"] = {"format": {"type": "json_object"}}
    if wanted.schema is not None:
        losses.drop(_ROW + ("responseJsonSchema" if "responseJsonSchema" in config else "responseSchema"))
    memo.json_fallback = True
    told = wanted.in_words
    if wanted.schema is not None or not _says_json(payload["input"]):
        # Into the input: the vendor wants the word "JSON" there, instructions do not count everywhere.
        payload["input"] = [{"role": "developer", "content": told}, *payload["input"]]


def _says_json(items: list[Json]) -> bool:
    for item in items:
        content = item.get("content")
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content or ()]
        if any("json" in text.lower() for text in texts):
            return True
    return False


# --- The answer -------------------------------------------------------------------------------------------------------


@errors.guarded
def response(answer: Json, memo: Memo) -> Json:
    status = answer.get("status")
    if answer.get("error") or status in ("failed", "cancelled"):
        failure = _failure(answer.get("error"))
        if isinstance(failure, UpstreamError):
            raise failure
        return _blocked(failure, memo, _counted(answer))
    if not isinstance(answer.get("output"), list):
        raise UpstreamError("protocol", "The answer has no output.")
    building = chunks.Answer(memo, FAMILY)
    _named(building, answer)
    refused = False
    for item in answer["output"]:
        match item:
            case {"type": "reasoning"}:
                for text in _thoughts(item):
                    building.thought(text)
                _keep(building, item)
            case {"type": "message"}:
                _phase(building, item)
                refused = _message(building, item) or refused
            case {"type": "function_call"}:
                _call(building, item)
    _finish(building, answer, refused)
    return building.whole()


class Stream:
    """One stream's memory. Items are told apart by their place in the output."""

    def __init__(self, memo: Memo) -> None:
        self.ended = False
        self._memo = memo
        self._answer = chunks.Answer(memo, FAMILY)
        self._refused = False
        self._finished = False
        self._summary: tuple[int, int] | None = None  # the summary part that was last heard
        self._heard: set[int] = set()  # items whose text came as deltas

    @errors.guarded
    def feed(self, frame: Frame) -> list[Json]:
        if self.ended or frame.data == b"[DONE]":
            return []
        try:
            event = json.loads(frame.data)
        except json.JSONDecodeError:
            raise UpstreamError("protocol", "An event of the stream is not JSON.") from None
        kind = event.get("type", "") if isinstance(event, dict) else ""
        hear = _EVENTS.get(kind)
        if hear is None:
            if kind or "error" not in event:
                return []  # built-in tools, keep-alives, and whatever the vendor adds next
            return self._failed(event)
        return hear(self, event)

    @errors.guarded
    def finish(self) -> list[Json]:
        answer = self._answer
        if not self._finished and not answer.stopped:
            if self.ended:  # a blocked prompt: said already
                return []
            raise UpstreamError("cut", "The stream ended before the response was completed.")
        self.ended = True
        return answer.end()

    def _text(self, event: Json) -> list[Json]:
        answer = self._answer
        self._heard.add(event.get("output_index", 0))
        if found := event.get("logprobs"):
            answer.candidate(0).logprobs(found)
        answer.text(event.get("delta") or "")
        self.ended = answer.stopped
        return answer.take()

    def _refusal(self, event: Json) -> list[Json]:
        self._refused = True
        return self._text(event)

    def _thought(self, event: Json) -> list[Json]:
        part = (event.get("output_index", 0), event.get("summary_index") or event.get("content_index") or 0)
        if self._summary is not None and part != self._summary:
            self._answer.thought("\n\n")
        self._summary = part
        self._answer.thought(event.get("delta") or "")
        return self._answer.take()

    def _opened(self, event: Json) -> list[Json]:
        item = event.get("item") or {}
        if item.get("type") == "message":
            self._summary = None
            _phase(self._answer, item)
        return []

    def _closed(self, event: Json) -> list[Json]:
        item = event.get("item") or {}
        answer = self._answer
        match item.get("type"):
            case "reasoning":
                _keep(answer, item)  # from this event: `added` may have only a part of the encrypted content
            case "function_call":
                self._summary = None
                _call(answer, item)
            case "message" if event.get("output_index", 0) not in self._heard:
                self._refused = _message(answer, item) or self._refused
                self.ended = answer.stopped
        return answer.take()

    def _begun(self, event: Json) -> list[Json]:
        _named(self._answer, event.get("response") or {})
        return []

    def _completed(self, event: Json) -> list[Json]:
        self._finished = True
        said = event.get("response") or {}
        _named(self._answer, said)
        _finish(self._answer, said, self._refused)
        return []

    def _failed(self, event: Json) -> list[Json]:
        """`response.failed` has the error inside the response, `error` at its top or under "error"."""
        said: Json = event.get("response") or {}
        failure = _failure(said.get("error") or event.get("error") or event)
        if isinstance(failure, UpstreamError):
            raise failure
        self.ended = True
        if not self._answer.started:
            return [_blocked(failure, self._memo, _counted(said))]
        self._finished = True
        self._answer.finish("SAFETY", failure.message)
        return []


_EVENTS: dict[str, Callable[[Stream, Json], list[Json]]] = {
    "response.output_text.delta": Stream._text,
    "response.refusal.delta": Stream._refusal,
    "response.reasoning_summary_text.delta": Stream._thought,
    "response.reasoning_text.delta": Stream._thought,
    "response.output_item.added": Stream._opened,
    "response.output_item.done": Stream._closed,
    "response.created": Stream._begun,
    "response.in_progress": Stream._begun,
    "response.queued": Stream._begun,
    "response.completed": Stream._completed,
    "response.incomplete": Stream._completed,
    "response.failed": Stream._failed,
    "response.cancelled": Stream._failed,
    "error": Stream._failed,
}

# status "incomplete": its reason -> Gemini's
INCOMPLETE = {"max_output_tokens": "MAX_TOKENS", "max_messages": "MAX_TOKENS", "content_filter": "SAFETY"}


def _named(building: chunks.Answer, said: Json) -> None:
    if found := said.get("id"):
        building.response_id = str(found)
    if found := said.get("model"):
        building.model_version = str(found)


def _thoughts(item: Json) -> list[str]:
    """The texts of a reasoning item as thoughts: summaries, or what an open-weight model thought in full."""
    texts = [part.get("text") or "" for name in ("summary", "content") for part in item.get(name) or ()]
    return ["\n\n" + text if place else text for place, text in enumerate(filter(None, texts))]


def _keep(building: chunks.Answer, item: Json) -> None:
    if item.get("encrypted_content") and item.get("id"):
        summary = [part.get("text") or "" for part in item.get("summary") or ()]
        building.opaque({"t": "reasoning", "id": item["id"], "e": item["encrypted_content"], "sum": summary})


def _phase(building: chunks.Answer, item: Json) -> None:
    if found := item.get("phase"):
        building.opaque({"t": "phase", "v": found})


def _message(building: chunks.Answer, item: Json) -> bool:
    """Says a message. Returns whether it is a refusal."""
    refused = False
    for part in item.get("content") or ():
        if part.get("type") == "refusal":
            refused = True
            building.text(part.get("refusal") or "")
        elif part.get("type") == "output_text":
            if found := part.get("logprobs"):
                building.candidate(0).logprobs(found)
            building.text(part.get("text") or "")
    return refused


def _call(building: chunks.Answer, item: Json) -> None:
    """`call_id` comes back with the result; the item's own `id` is something else."""
    if item.get("status") == "incomplete":  # cut off by the limit in the middle of its arguments
        return
    building.call(item.get("call_id") or "", item.get("name") or "", item.get("arguments"))


def _finish(building: chunks.Answer, said: Json, refused: bool) -> None:
    if (counted := _counted(said)) is not None:
        building.usage(counted)
    if said.get("status") == "incomplete":
        why = (said.get("incomplete_details") or {}).get("reason") or ""
        reason = INCOMPLETE.get(why, "OTHER")
        if reason == "SAFETY" and not building.started:
            building.text(blocked.DECLINED)
        building.finish(reason, why if reason in ("SAFETY", "OTHER") else "")
    else:
        building.finish("SAFETY" if refused else "STOP")


def _counted(said: Json) -> Json | None:
    found = said.get("usage")
    return usage.openai(found, prompt_key="input_tokens", output_key="output_tokens") if found else None


# --- Refusals ---------------------------------------------------------------------------------------------------------

# What only this language says; the rest is the vendor's vocabulary everywhere.
_WORDS: dict[str, Kind] = {
    **ERROR_WORDS,
    "invalid_prompt": "invalid",
    "data_residency_mismatch": "invalid",
    "vector_store_timeout": "timeout",
    "cancelled": "unavailable",
}
# The vendor's policy said no to the prompt (or, in a stream, to what came of it).
_BLOCKED = {
    **dict.fromkeys(blocked.CODES, "SAFETY"),
    "image_content_policy_violation": "SAFETY",
    "bio_policy": "PROHIBITED_CONTENT",
    "cyber_policy": "PROHIBITED_CONTENT",
    "misalignment_policy_violation": "PROHIBITED_CONTENT",
}
# Parameters that may be left out when a model refuses them, and what the client calls them: a retry without is fair.
DISPENSABLE = {
    "temperature": "generationConfig.temperature",
    "top_p": "generationConfig.topP",
    "reasoning": "generationConfig.thinkingConfig",
    "reasoning.effort": "generationConfig.thinkingConfig",
    "reasoning.summary": "generationConfig.thinkingConfig.includeThoughts",
    "include": "",
}
_NOT_THIS_ONE = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})


def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json:
    said = errors.read(refusal.body)
    if _is_block(said):
        return _blocked(said, memo)
    return _refined(errors.understood(refusal, said, _WORDS), said)


def _failure(said: Any) -> UpstreamError | errors.ErrorBody:
    """An error inside an answer: an UpstreamError, or the ErrorBody of a block."""
    body = errors.read_value(said)
    if _is_block(body):
        return body
    kind: Kind = "invalid" if "image" in body.code else "server"  # invalid_image_url, image_too_large, ...
    return _refined(errors.of_kind(_WORDS.get(body.code) or _WORDS.get(body.type) or kind, body), body)


def _refined(understood: UpstreamError, said: errors.ErrorBody) -> UpstreamError:
    """A prompt that is too long, a field that may be left out: said in words, or in `param`."""
    if understood.kind != "invalid":
        return understood
    if errors.is_about_room(said.message):
        return replace(understood, kind="too_long", message=errors.TOO_LONG)
    understood.drop_field = _droppable(said)
    return understood


def _droppable(said: errors.ErrorBody) -> str:
    """What a second try may leave out after this refusal."""
    if said.code == "invalid_encrypted_content" or "encrypted content" in said.message.lower():
        return "thoughtSignature"
    unverified = said.param == "reasoning.summary"  # summaries can need a verified organisation
    return errors.dispensable(said.param, DISPENSABLE) if unverified or said.code in _NOT_THIS_ONE else ""


def _is_block(said: errors.ErrorBody) -> bool:
    return said.code in _BLOCKED or _inner(said).get("code") in _BLOCKED


def _inner(said: errors.ErrorBody) -> Json:
    inner = said.raw.get("innererror")
    return inner if isinstance(inner, dict) else {}


def _blocked(said: errors.ErrorBody, memo: Memo, counted: Json | None = None) -> Json:
    """Azure tells its filters' verdicts: in `innererror`, or in a list of filters."""
    results = _inner(said).get("content_filter_result")
    filters = said.raw.get("content_filters")
    if results is None and isinstance(filters, list):
        results = next((each.get("content_filter_results") for each in filters if isinstance(each, dict)), None)
    return blocked.prompt(memo, results, reason=_BLOCKED.get(said.code, "SAFETY"), counted=counted)
