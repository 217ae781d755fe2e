"""AWS Bedrock's Converse: one language for many families of models; what each of them takes is data.

The model is named in the path, so the letter does not name it. Claude's own rules come from `claude`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

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
from gemini_api.translators.capabilities import Row
from gemini_api.translators.losses import Losses, check_common, drop_knobs
from gemini_api.translators.names import LIMITS, Names
from lib import json
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Frame

language = "bedrock_converse"
BACKEND = "Bedrock Converse"
FAMILY = "converse"

_ROW = "generationConfig."
_UNKNOWN_KNOBS = ("seed", "presencePenalty", "frequencyPenalty", "mediaResolution")
_HERE = {"temperature": "temperature", "top_p": "topP"}  # a sampling parameter -> its name in inferenceConfig


# --- The letter -------------------------------------------------------------------------------------------------------


def request(body: Json, target: Target) -> Letter:
    losses = Losses(target, BACKEND)
    check_common(body, losses)
    config: Json = body.get("generationConfig", {})
    memo = Memo(model=target.model, thoughts=thinking.wants_thoughts(body), scope=target.scope, tenant=target.tenant)
    letter = _Writer(body, target, memo, losses)
    letter.write()
    drop_knobs(config, _UNKNOWN_KNOBS, losses)
    if config.get("candidateCount", 1) > 1:
        losses.refuse(_ROW + "candidateCount")
    if config.get("responseLogprobs"):
        losses.refuse(_ROW + "responseLogprobs")
    return Letter(letter.payload, memo, losses.paths, letter.sealed)


_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")


def count_request(body: Json, target: Target) -> Letter:
    """For CountTokens: what the model reads, nothing about how it answers."""
    losses = Losses(replace(target, strict=False), BACKEND)
    memo = Memo(model=target.model, action="count")
    letter = _Writer(body, target, memo, losses)
    letter.write()
    return Letter({name: letter.payload[name] for name in _COUNTED if name in letter.payload}, memo, losses.paths)


def count_response(answer: Json) -> int:
    return usage.number(answer.get("inputTokens"))


class _Writer:
    """Writes one letter. `extra` are the fields that only the model's own family knows."""

    def __init__(self, body: Json, target: Target, memo: Memo, losses: Losses) -> None:
        self.payload: Json = {}
        self.sealed = False
        self._body = body
        self._config: Json = body.get("generationConfig", {})
        self._target = target
        self._memo = memo
        self._losses = losses
        self._caps = capabilities.of("converse", target)
        self._claude: Row = capabilities.claude(target) if self._caps["claude"] else {}
        self._names = Names(LIMITS[language])
        self._documents: set[str] = set()
        memo.names = self._names.back

    def write(self) -> None:
        caps, losses, payload = self._caps, self._losses, self.payload
        choice = tools.choice(self._body)
        declared = tools.declared(self._body, losses)
        if declared and not caps["tools"]:
            losses.refuse("tools", "This model calls no functions.")
        said = turns.read(
            self._body,
            losses,
            opaque=claude.reader(self._body, FAMILY, self._target, None),
            drop_blank=True,
            short_ids=caps["short_ids"],
        )
        if choice.mode == "NONE" or not caps["tools"]:
            said = self._told(said)
            declared = []
        turns.lead_with_user(said, losses)
        inference: Json = {}
        extra: Json = {}
        forced = self._think(said, choice, inference, extra)
        system = self._system(said)
        payload["messages"] = self._messages(said)
        if system:
            payload["system"] = [{"text": system}]
        if tool_config := self._tools(said, declared, choice, forced):
            payload["toolConfig"] = tool_config
        self._stops(inference)
        if inference:
            payload["inferenceConfig"] = inference
        if extra:
            payload["additionalModelRequestFields"] = extra

    # Thinking, sampling, limits.

    def _think(self, said: list[turns.Turn], choice: tools.Choice, inference: Json, extra: Json) -> bool:
        """Writes how the model shall think and sample. Returns whether a function may be forced."""
        most = self._config.get("maxOutputTokens")
        can = self._claude.get("max_output") or self._caps["max_output"]
        if most:
            inference["maxTokens"] = min(most, can) if can else most
        if not self._claude:
            effort = self._effort(extra)
            self._sample(inference, extra, bare=bool(effort) and effort == self._caps["bare_effort"])
            forcible = choice.mode == "ANY" and bool(self._caps["forced_tools"])
            if choice.mode == "ANY" and not forcible:
                self._losses.drop("toolConfig.functionCallingConfig.mode", "This model cannot be forced to call.")
            return forcible
        plan = claude.plan(self._body, self._claude, choice, said, inference.get("maxTokens"), self._losses)
        if plan.thinking is not None:
            extra["thinking"] = plan.thinking
        if plan.effort:
            extra["output_config"] = {"effort": plan.effort}
        found = claude.sampling(self._config, self._claude, plan.thinks, self._losses)
        inference |= {_HERE[name]: value for name, value in found.items() if name in _HERE}
        if "top_k" in found:
            extra["top_k"] = found["top_k"]
        return plan.forced

    def _effort(self, extra: Json) -> str:
        """Writes the effort in the family's own way. Returns it; "" when nothing was written."""
        asked: Json = self._config.get("thinkingConfig", {})
        effort, caps = thinking.effort(asked), self._caps
        if effort is None:
            return ""
        snapped = thinking.snap(effort, caps["efforts"]) if caps["effort_in"] else None
        if effort != (snapped or "off") and (snapped is None or effort == "off"):
            self._losses.drop(_ROW + "thinkingConfig")
        if snapped is None:
            return ""
        extra |= _EFFORTS[caps["effort_in"]](snapped)
        return snapped

    def _sample(self, inference: Json, extra: Json, *, bare: bool) -> None:
        config, losses = self._config, self._losses
        if bare and inference.pop("maxTokens", None):
            losses.drop(_ROW + "maxOutputTokens", "This model takes no limit beside its highest effort.")
        for name in ("temperature", "topP"):
            if name not in config:
                continue
            if bare:
                if config[name] != 1:
                    losses.drop(_ROW + name)
                continue
            if config[name] > 1:
                losses.drop(_ROW + name, "The highest value of this model is 1.")
            inference[name] = min(config[name], 1)
        if "topK" in config:
            if self._caps["top_k"] == "nova" and not bare:
                extra["inferenceConfig"] = {"topK": config["topK"]}
            else:
                losses.drop(_ROW + "topK")

    def _stops(self, inference: Json) -> None:
        stops = self._config.get("stopSequences", ())
        if len(stops) <= self._caps["stop_limit"] and all(stop.strip() for stop in stops):
            if stops:
                inference["stopSequences"] = stops
        else:
            self._memo.stops = tuple(stops)  # too many, or white space alone: all of them are found here

    # The conversation.

    def _system(self, said: list[turns.Turn]) -> str:
        """The system's text. Models that know no system hear it from the user."""
        text = "\n\n".join(filter(None, (turns.system_text(self._body, self._losses), self._format())))
        if not text or self._caps["system"]:
            return text
        self._losses.drop("systemInstruction", "This model takes no system instruction.")
        said[0].items.insert(0, turns.Text(text))
        return ""

    def _format(self) -> str:
        """Writes outputConfig.textFormat where model and schema allow it; else returns what to tell the model."""
        wanted = schema.answer_format(self._config)
        if not wanted.mode:
            return ""
        bound = self._caps["structured"] and wanted.schema is not None
        fitting = schema.for_anthropic(wanted.schema) if bound and wanted.schema is not None else None
        if fitting is not None:
            self._memo.wrapped = wanted.wrapped
            told = {"schema": json.dumps(fitting).decode(), "name": "response"}
            self.payload["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": told}}}
            return ""
        if wanted.schema is None:
            self._losses.drop(_ROW + "responseMimeType", f"{BACKEND} has no JSON mode without a schema.")
        else:
            self._losses.drop(
                _ROW + ("responseJsonSchema" if "responseJsonSchema" in self._config else "responseSchema")
            )
        self._memo.json_fallback = True
        return wanted.in_words

    def _told(self, said: list[turns.Turn]) -> list[turns.Turn]:
        """Calls and results as text: this language has no "none", and blocks without declarations are refused."""
        if not any(turn.results for turn in said):
            return said
        self._losses.drop("contents.parts.functionCall")
        return [_in_words(turn) for turn in said]

    def _messages(self, said: list[turns.Turn]) -> list[Json]:
        messages: list[Json] = []
        for turn in said:
            if turn.role == "user":
                messages += self._user(turn)
            else:
                content = [block for item in turn.items for block in self._spoken(item)]
                if not content:  # thoughts of a model that does not want them back, and nothing else
                    content = [{"text": "."}]
                messages.append({"role": "assistant", "content": content})
        if said[-1].role == "model":
            self._continued(messages[-1]["content"][-1])
        return messages

    def _continued(self, last: Json) -> None:
        if not (self._claude or self._caps)["prefill"]:
            self._losses.refuse(
                "contents", "This model cannot continue a turn of its own; the last content must be the user's."
            )
        if "text" in last:
            last["text"] = last["text"].rstrip()

    def _user(self, turn: turns.Turn) -> list[Json]:
        results: list[Json] = []
        shown: list[turns.Item] = []
        for result in turn.results:
            results.append(self._result(result, shown))
        items = [*shown, *turn.items]
        blocks = [self._block(item) for item in items]
        if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
            blocks.append({"text": "."})  # a document needs a text beside it
        if not results or not blocks:
            return [{"role": "user", "content": results + blocks}]
        heavy = any(block.keys() & {"document", "video"} for block in blocks)
        if self._caps["results_alone"] or (heavy and not self._caps["document_with_results"]):
            self._losses.drop("contents")  # a "." of the model is put between
            return [
                {"role": "user", "content": results},
                {"role": "assistant", "content": [{"text": "."}]},
                {"role": "user", "content": blocks},
            ]
        return [{"role": "user", "content": results + blocks}]

    def _result(self, result: turns.Result, shown: list[turns.Item]) -> Json:
        """One function's result. Media go along where the model allows, else into what the user shows afterwards."""
        status = result.failed and self._caps["result_status"]
        text = result.text(whole_error=not status)
        content: list[Json] = [{"text": text if text.strip() else "(empty)"}]
        if result.media and self._caps["tool_result_media"]:
            content += [self._block(item) for item in result.media]
        elif result.media:
            self._losses.drop("contents.parts.functionResponse.parts")
            shown += [turns.Text(f"[output of {result.name}]"), *result.media]
        block: Json = {"toolUseId": result.id, "content": content}
        if status:
            block["status"] = "error"
        return {"toolResult": block}

    def _spoken(self, item: turns.Item) -> list[Json]:
        match item:
            case turns.Opaque(blocks):
                self.sealed = True
                return [_reasoning(block) for block in blocks]
            case turns.Call(id, name, args):
                return [{"toolUse": {"toolUseId": id, "name": self._names.there(name), "input": args}}]
        return [self._block(item)]

    def _block(self, item: turns.Item) -> Json:
        match item:
            case turns.Text(text):
                return {"text": text}
            case media.Media():
                return self._media(item)
        raise TypeError(f"No turn shows a {type(item).__name__}.")

    def _media(self, item: media.Media) -> Json:
        media.check(item, media.TAKES[language], self._losses)
        if item.detail:
            self._losses.drop("contents.parts.mediaResolution")
        if item.kind == "text":
            text = item.decoded_text()
            return {"text": f"File: {item.name}\n{text}" if item.name else text if text.strip() else "."}
        allowed, name, formats = _MEDIA[item.kind]
        if not self._caps[allowed]:
            self._losses.refuse(item.path, f"This model takes no {allowed}.")
        found = formats.get(item.mime)
        if found is None:
            self._losses.refuse(f"{item.path}.mimeType", f"This model takes no file of type '{item.mime}'.")
        source = {"s3Location": {"uri": item.uri}} if item.uri else {"bytes": item.data}
        block: Json = {"format": found, "source": source}
        if item.kind == "pdf":
            block["name"] = self._document(item.name)
        return {name: block}

    def _document(self, name: str) -> str:
        """A document's name: letters, digits, single spaces, hyphens, brackets; unique in the letter."""
        clean = " ".join(_NOT_IN_A_NAME.sub(" ", name.rpartition(".")[0] or name).split())[:190] or "file"
        found, number = clean, 1
        while found in self._documents:
            number += 1
            found = f"{clean} {number}"
        self._documents.add(found)
        return found

    # Tools.

    def _tools(
        self, said: list[turns.Turn], declared: list[tools.Declaration], choice: tools.Choice, forced: bool
    ) -> Json | None:
        if not declared:
            # Tool blocks in the history need declarations, whatever is asked now.
            called = dict.fromkeys(call.name for turn in said if turn.role == "model" for call in turn.calls)
            declared = [tools.Declaration(name, "", {"type": "object", "properties": {}}) for name in called]
            return {"tools": [self._tool(each, choice) for each in declared]} if declared else None
        one = choice.allowed[0] if forced and len(choice.allowed) == 1 and self._caps["forced_tools"] != "any" else ""
        if choice.allowed and not one:
            declared = [each for each in declared if each.name in choice.allowed]
        config: Json = {"tools": [self._tool(each, choice) for each in declared]}
        specs = [each["toolSpec"] for each in config["tools"]]
        tools.check_validated(
            choice.mode, (("strict" in each, each["inputSchema"]["json"]) for each in specs), self._losses
        )
        if one:
            config["toolChoice"] = {"tool": {"name": self._names.there(one)}}
        elif forced:
            config["toolChoice"] = {"any": {}}
        return config

    def _tool(self, declared: tools.Declaration, choice: tools.Choice) -> Json:
        strictly = choice.mode == "VALIDATED" and self._caps["strict_tools"]
        fitting = schema.for_anthropic(declared.parameters) if strictly else None
        parameters = fitting or schema.for_converse(declared.parameters, plain_root=self._caps["plain_schema"])
        spec: Json = {
            "name": self._names.there(declared.name),
            "description": declared.description or declared.name,
            "inputSchema": {"json": parameters},
        }
        if fitting is not None:
            spec["strict"] = True
        return {"toolSpec": spec}


_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9\-()\[\]]")
# kind -> (the capability it needs, its block's name, MIME type -> format)
_MEDIA: dict[str, tuple[str, str, dict[str, str]]] = {
    "image": ("images", "image", media.IMAGE_FORMATS),
    "pdf": ("documents", "document", {"application/pdf": "pdf"}),
    "video": ("video", "video", media.VIDEO_FORMATS),
    "audio": ("audio", "audio", media.AUDIO_FORMATS),
}
# How a family wants to hear of an effort.
_EFFORTS: dict[str, Callable[[str], Json]] = {
    "reasoning_effort": lambda effort: {"reasoning_effort": effort},
    "reasoning": lambda effort: {"reasoning": {"effort": "none" if effort == "off" else effort}},
    "reasoningConfig": lambda effort: {
        "reasoningConfig": {"type": "disabled"}
        if effort == "off"
        else {"type": "enabled", "maxReasoningEffort": effort}
    },
}


def _in_words(turn: turns.Turn) -> turns.Turn:
    results: list[turns.Item] = [
        turns.Text(f"[result of {each.name}] {each.text(whole_error=True)}") for each in turn.results
    ]
    items: list[turns.Item] = [
        turns.Text(f"[call {item.name} {json.dumps(item.args).decode()}]") if isinstance(item, turns.Call) else item
        for item in turn.items
        if not isinstance(item, turns.Opaque)
    ]
    shown = [item for each in turn.results for item in each.media]
    return turns.Turn(turn.role, items=[*results, *shown, *items])


def _reasoning(block: Json) -> Json:
    """Byte for byte what was once said: the model's vendor checks its signature."""
    if block.get("t") == "rc":
        return {"reasoningContent": {"reasoningText": {"text": block["x"], "signature": block["g"]}}}
    return {"reasoningContent": {"redactedContent": block["d"]}}


# --- The answer -------------------------------------------------------------------------------------------------------

REASONS = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "model_context_window_exceeded": "MAX_TOKENS",
    "guardrail_intervened": "SAFETY",
    "content_filtered": "SAFETY",
    "malformed_tool_use": "MALFORMED_FUNCTION_CALL",
    "malformed_model_output": "MALFORMED_RESPONSE",
}


@errors.guarded
def response(answer: Json, memo: Memo) -> Json:
    building = chunks.Answer(memo, FAMILY)
    message = (answer.get("output") or {}).get("message")
    if not isinstance(message, dict):
        raise UpstreamError("protocol", "The answer holds no message.")
    content = message.get("content") or [{}]
    why = answer.get("stopReason") or ""
    for block in content:
        match block:
            case {"text": str(text)}:
                building.text(text)
            case {"toolUse": {"input": {}} as call} if (
                not call["input"] and why == "max_tokens" and block is content[-1]
            ):
                pass  # the limit cut it off before its first argument
            case {"toolUse": {"toolUseId": str(id), "name": str(name)} as call}:
                building.call(id, name, call.get("input"))
            case {"reasoningContent": {"reasoningText": {"text": str(text)} as reasoning}}:
                building.thought(text)
                _keep(building, text, reasoning.get("signature") or "")
            case {"reasoningContent": {"redactedContent": str(data)}}:
                building.opaque({"t": "rcr", "d": data})
            case {"citationsContent": {"content": list(cited)}}:
                for piece in cited:
                    building.text(piece.get("text") or "")
            case {"image": {"format": str(kind), "source": {"bytes": str(data)}}}:
                building.media(f"image/{kind}", data)
    _finish(building, why)
    if counted := answer.get("usage"):
        building.usage(usage.converse(counted))
    return building.whole()


class Stream:
    """One stream's memory. Text and reasoning begin without a start event; blocks are known by their index."""

    def __init__(self, memo: Memo) -> None:
        self.ended = False
        self._answer = chunks.Answer(memo, FAMILY)
        self._blocks: dict[int, _Block] = {}
        self._why = ""
        self._bare_call: tuple[str, str] | None = None  # a call without arguments: none, or cut off before them

    @errors.guarded
    def feed(self, frame: Frame) -> list[Json]:
        if self.ended:
            return []
        if frame.exception:
            raise aws.exception(frame)
        hear = _EVENTS.get(frame.event)
        if hear is None:
            return []
        try:
            event = json.loads(frame.data)
        except json.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise UpstreamError("protocol", "An event of the stream is not a JSON object.")
        return hear(self, event)

    @errors.guarded
    def finish(self) -> list[Json]:
        answer = self._answer
        if not answer.stopped:
            if not self._why:
                raise UpstreamError("cut", "The stream ended before the message was complete.")
            if self._why != "max_tokens":
                self._say_bare_call()
            _finish(answer, self._why)
        self.ended = True
        return answer.end()

    def _delta(self, event: Json) -> list[Json]:
        delta, answer = event.get("delta") or {}, self._answer
        text = delta.get("text")
        if text is not None:
            answer.text(text)
            self.ended = answer.stopped
            return answer.take()
        block = self._blocks.setdefault(event.get("contentBlockIndex", 0), _Block())
        match delta:
            case {"toolUse": {"input": str(piece)}}:
                block.pieces.append(piece)
            case {"reasoningContent": {"text": str(piece)}}:
                block.pieces.append(piece)
                answer.thought(piece)
            case {"reasoningContent": {"signature": str(piece)}}:
                block.signature += piece
            case {"reasoningContent": {"redactedContent": str(data)}}:
                block.redacted.append(data)
            case {"image": {"source": {"bytes": str(data)}}}:
                block.pieces.append(data)
        return answer.take()

    def _opened(self, event: Json) -> list[Json]:
        self._say_bare_call()
        start = event.get("start") or {}
        self._blocks[event.get("contentBlockIndex", 0)] = _Block(start.get("toolUse"), start.get("image"))
        return []

    def _closed(self, event: Json) -> list[Json]:
        block = self._blocks.pop(event.get("contentBlockIndex", 0), None)
        if block is None:
            return []
        answer, whole = self._answer, "".join(block.pieces)
        if block.call is not None:
            id, name = block.call.get("toolUseId") or "", block.call.get("name") or ""
            if whole:
                answer.call(id, name, whole)
            else:
                self._bare_call = (id, name)
        elif block.image is not None:
            answer.media(f"image/{block.image.get('format')}", whole)
        else:
            _keep(answer, whole, block.signature)
            for data in block.redacted:
                answer.opaque({"t": "rcr", "d": data})
        return answer.take()

    def _stopping(self, event: Json) -> list[Json]:
        self._why = event.get("stopReason") or "end_turn"
        return []

    def _counted(self, event: Json) -> list[Json]:
        if counted := event.get("usage"):
            self._answer.usage(usage.converse(counted))
        return []

    def _say_bare_call(self) -> None:
        if self._bare_call is not None:
            (id, name), self._bare_call = self._bare_call, None
            self._answer.call(id, name, None)


class _Block:
    """A block while its pieces arrive."""

    __slots__ = ("call", "image", "pieces", "redacted", "signature")

    def __init__(self, call: Json | None = None, image: Json | None = None) -> None:
        self.call = call
        self.image = image
        self.pieces: list[str] = []
        self.signature = ""
        self.redacted: list[str] = []


_EVENTS: dict[str, Callable[[Stream, Json], list[Json]]] = {
    "contentBlockDelta": Stream._delta,
    "contentBlockStart": Stream._opened,
    "contentBlockStop": Stream._closed,
    "messageStop": Stream._stopping,
    "metadata": Stream._counted,
}


def _keep(building: chunks.Answer, text: str, signature: str) -> None:
    """Reasoning for the way back. Without a signature no model takes it back."""
    if signature:
        building.opaque({"t": "rc", "x": text, "g": signature})


def _finish(building: chunks.Answer, why: str) -> None:
    reason = REASONS.get(why, "OTHER")
    if reason == "SAFETY" and not building.started:
        building.text(blocked.DECLINED)
    building.finish(reason, "" if why in _PLAIN else why)


_PLAIN = frozenset({"end_turn", "stop_sequence", "tool_use", "max_tokens"})


# --- Refusals ---------------------------------------------------------------------------------------------------------


# A sampling parameter of Claude -> where it stands in this language.
_PLACES = {
    "temperature": "inferenceConfig.temperature",
    "top_p": "inferenceConfig.topP",
    "top_k": "additionalModelRequestFields.top_k",
}
DISPENSABLE = {_PLACES[name]: field for name, field in claude.SAMPLING.items()}
_QUOTES = "The model returned the following errors: "  # and then the model's own words


def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json:
    understood = aws.understood(refusal)
    message = errors.read(refusal.body).message
    if understood.kind == "invalid":
        if errors.is_about_room(message):
            return replace(understood, kind="too_long", message=errors.TOO_LONG)
        named = claude.droppable(message.removeprefix(_QUOTES))
        understood.drop_field = _PLACES.get(named, named)
    return understood
