"""OpenAI's Chat Completions, and everybody who imitates them (Azure, Google's compatible endpoints, open servers).

Who knows what is data: `capabilities.OPENAI`, with a deployment's overrides. Reasoning has no place in this language:
envelopes of earlier turns are left out, except Google's own signatures where tool calls can carry them.
"""

from __future__ import annotations

import re
from typing import Any

from gemini_api import signatures
from gemini_api.translators import blocked, capabilities, errors, media, schema, thinking, tools, turns
from gemini_api.translators import usage as counts
from gemini_api.translators.base import Json, Letter, Memo, Target
from gemini_api.translators.capabilities import Row
from gemini_api.translators.chunks import Answer, Candidate
from gemini_api.translators.errors import ErrorBody
from gemini_api.translators.losses import Losses, check_common
from gemini_api.translators.media import Media
from gemini_api.translators.names import LIMITS, Names
from gemini_api.translators.schema import AnswerFormat
from gemini_api.translators.turns import Call, Result, Text, Turn
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal
from routing.framing import Frame

language = "chat_completions"
BACKEND = "OpenAI Chat Completions"

# Gemini's name -> the name here.
SAMPLING = {"temperature": "temperature", "topP": "top_p"}
PENALTIES = {"presencePenalty": "presence_penalty", "frequencyPenalty": "frequency_penalty"}
# A model that samples by its own rules refuses these even at the value it would use anyway.
_UNASKED = {"temperature": 1, "topP": 1, "presencePenalty": 0, "frequencyPenalty": 0}
FINISH_REASONS = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "function_call": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}
# Gemini's own reasons, which Google's compatible endpoint writes in lower case.
_OWN_REASONS = frozenset(
    {
        "MAX_TOKENS", "SAFETY", "RECITATION", "LANGUAGE", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII",
        "MALFORMED_FUNCTION_CALL", "IMAGE_SAFETY", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE",
    }
)  # fmt: skip
ERROR_WORDS: dict[str, Kind] = {
    "context_length_exceeded": "too_long",
    "string_above_max_length": "too_long",
    "invalid_api_key": "credential",
    "model_not_found": "not_found",
    "DeploymentNotFound": "not_found",
    "insufficient_quota": "billing",
    "billing_hard_limit_reached": "billing",
    "credit_balance_exhausted": "billing",
    "rate_limit_exceeded": "rate_limited",
    "server_error": "server",
    "overloaded": "unavailable",
}
_ROOM_WORDS = re.compile(
    r"(?i)maximum context length|context window|context_length|too many (?:input )?tokens|prompt is too long"
)
_UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value", "unknown_parameter"})
# Fields here whose loss is a hint lost (class W), and what the client calls them: a retry without one is fair.
DISPENSABLE = {
    "temperature": "generationConfig.temperature",
    "top_p": "generationConfig.topP",
    "top_k": "generationConfig.topK",
    "seed": "generationConfig.seed",
    "presence_penalty": "generationConfig.presencePenalty",
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "reasoning_effort": "generationConfig.thinkingConfig",
    "stream_options": "",
}
_FIELD_IN_MESSAGE = re.compile(r"['\"`]([\w.]+)['\"`]")


# --- The request ------------------------------------------------------------------------------------------------------


def request(body: Json, target: Target) -> Letter:
    caps = capabilities.of("openai", target)
    losses = Losses(target, BACKEND)
    check_common(body, losses)
    if not caps["chat"]:
        losses.refuse("model", "This model needs a deployment that speaks OpenAI Responses.")
    config = body.get("generationConfig", {})
    memo = Memo(model=target.model, scope=target.scope, tenant=target.tenant)
    names = Names(LIMITS[language])
    declared = tools.declared(body, losses) if "tools" in body else []
    answer = schema.answer_format(config) if "responseMimeType" in config or _has_schema(config) else schema.PROSE

    payload: Json = {"model": target.model, "messages": []}
    thinks = _think(payload, config, caps, bool(declared), losses, memo)
    if config:
        _sample(payload, config, caps, losses, thinks=thinks)
        _limit(payload, config, caps, losses, memo)
    if declared:
        _declare(payload, declared, tools.choice(body), caps, names, losses)
    instruction = _shape(payload, answer, caps, losses, memo)
    payload["messages"] = _messages(body, caps, names, losses, instruction)
    if "response_format" in payload:
        _say_json(payload, caps)
    if target.stream:
        payload["stream"] = True
        if caps["stream_options"]:
            payload["stream_options"] = {"include_usage": True}
    memo.names = names.back
    return Letter(payload, memo, losses.paths)


def _has_schema(config: Json) -> bool:
    return "responseSchema" in config or "responseJsonSchema" in config


def _think(payload: Json, config: Json, caps: Row, with_tools: bool, losses: Losses, memo: Memo) -> bool:
    """Sets the effort. Returns whether the model will think, which decides what else it takes."""
    asked = config.get("thinkingConfig")
    wanted = thinking.effort(asked)
    efforts = caps["efforts"]
    if asked and asked.get("includeThoughts"):
        memo.thoughts = True
        if not caps["thoughts"]:
            losses.drop("generationConfig.thinkingConfig.includeThoughts")
    if not efforts or not caps["effort_field"]:
        if wanted not in (None, "off"):
            losses.drop("generationConfig.thinkingConfig")
        return False
    chosen = thinking.snap(wanted, efforts) if wanted else None
    if with_tools and caps["tools_thinking"] != "yes":
        if caps["tools_thinking"] == "no":
            losses.refuse("tools", "With tools this model needs a deployment that speaks OpenAI Responses.")
        if (chosen or caps["default_effort"]) != "off":
            if wanted not in (None, "off"):
                losses.drop("generationConfig.thinkingConfig")
            chosen = "off"
    elif wanted == "off" and chosen != "off":
        losses.drop("generationConfig.thinkingConfig.thinkingBudget")
    if chosen:
        payload[caps["effort_field"]] = _effort_word(chosen, caps["efforts_max"])
    return (chosen or caps["default_effort"]) != "off"


def _effort_word(effort: str, most: str) -> str:
    if effort == "off":
        return "none"
    return most if thinking.SCALE.index(effort) > thinking.SCALE.index(most) else effort


def _sample(payload: Json, config: Json, caps: Row, losses: Losses, *, thinks: bool) -> None:
    sampling = caps["sampling"] == "yes" or (caps["sampling"] == "off_only" and not thinks)
    for knobs, taken in ((SAMPLING, sampling), (PENALTIES, caps["penalties"])):
        for here, there in knobs.items():
            if here not in config:
                continue
            if taken:
                payload[there] = config[here]
            elif config[here] != _UNASKED[here]:
                losses.drop(f"generationConfig.{here}")
    for here, there in (("topK", "top_k"), ("seed", "seed")):
        if here in config:
            if caps[there]:
                payload[there] = config[here]
            else:
                losses.drop(f"generationConfig.{here}")


def _limit(payload: Json, config: Json, caps: Row, losses: Losses, memo: Memo) -> None:
    if "maxOutputTokens" in config:
        payload[caps["max_tokens_field"]] = config["maxOutputTokens"]
    if config.get("candidateCount", 1) > 1:
        if not caps["n"]:
            losses.refuse("generationConfig.candidateCount")
        payload["n"] = config["candidateCount"]
    if stops := config.get("stopSequences"):
        if caps["stop"] and len(stops) <= caps["stop_limit"]:
            payload["stop"] = stops
        else:
            memo.stops = tuple(stops)
    if config.get("responseLogprobs"):
        if not caps["logprobs"]:
            losses.refuse("generationConfig.responseLogprobs")
        payload["logprobs"] = True
        if config.get("logprobs"):
            payload["top_logprobs"] = config["logprobs"]


def _declare(
    payload: Json, declared: list[tools.Declaration], choice: tools.Choice, caps: Row, names: Names, losses: Losses
) -> None:
    """The tools, and how free the model is to call them."""
    if not caps["tools"]:
        losses.refuse("tools")
    listed = len(choice.allowed) > 1 or (choice.mode == "VALIDATED" and choice.allowed)
    # A server that cannot be told a list only gets to see the list. (A single forced function is named.)
    hidden = listed and not caps["allowed_tools"]
    offered = [each for each in declared if each.name in choice.allowed] if hidden else declared
    may_be_strict = choice.mode == "VALIDATED" and caps["strict_tools"]
    payload["tools"] = [_function(each, names, losses, may_be_strict=may_be_strict) for each in offered]
    functions = [tool["function"] for tool in payload["tools"]]
    tools.check_validated(choice.mode, (("strict" in each, each["parameters"]) for each in functions), losses)
    chosen = _tool_choice(choice, caps, names)
    if chosen is not None and chosen != "none" and not caps["tool_choice_required"]:
        losses.drop("toolConfig.functionCallingConfig.mode")
        payload["tools"] = [each for each in payload["tools"] if _is_allowed(each, choice, names)]
        return
    if chosen is not None:
        payload["tool_choice"] = chosen


def _is_allowed(function: Json, choice: tools.Choice, names: Names) -> bool:
    return not choice.allowed or function["function"]["name"] in [names.there(name) for name in choice.allowed]


def _function(declared: tools.Declaration, names: Names, losses: Losses, *, may_be_strict: bool) -> Json:
    function: Json = {"name": names.there(declared.name)}
    if declared.description:
        function["description"] = declared.description
    exact = schema.strict(declared.parameters) if may_be_strict else None
    if exact is not None:
        function["parameters"] = exact
        function["strict"] = True
    else:
        function["parameters"] = schema.openai_parameters(
            declared.parameters, "tools.functionDeclarations.parameters", losses
        )
    return {"type": "function", "function": function}


def _tool_choice(choice: tools.Choice, caps: Row, names: Names) -> Any:
    """None leaves the choice to the model, which is the vendor's default."""
    if choice.mode == "NONE":
        return "none"
    if choice.mode == "ANY" and len(choice.allowed) == 1:
        return {"type": "function", "function": {"name": names.there(choice.allowed[0])}}
    if choice.allowed and caps["allowed_tools"]:
        allowed = [{"type": "function", "function": {"name": names.there(name)}} for name in choice.allowed]
        mode = "required" if choice.mode == "ANY" else "auto"
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    return "required" if choice.mode == "ANY" else None


def _shape(payload: Json, answer: AnswerFormat, caps: Row, losses: Losses, memo: Memo) -> str:
    """The answer's format. Returns what has to be said in words, where the server has no field for it."""
    if not answer.mode:
        return ""
    if answer.schema is None:
        if caps["json_object"]:
            payload["response_format"] = {"type": "json_object"}
            return ""
    elif caps["json_schema"]:
        exact = schema.strict(answer.schema) if caps["strict_tools"] else None
        payload["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": exact or answer.schema, "strict": exact is not None},
        }
        memo.wrapped = answer.wrapped
        return ""
    else:
        losses.drop("generationConfig.responseSchema")
        if caps["json_object"] and answer.mode == "json" and not answer.wrapped:
            payload["response_format"] = {"type": "json_object"}
    memo.json_fallback = answer.mode == "json"
    return answer.in_words


def _say_json(payload: Json, caps: Row) -> None:
    """JSON mode is a 400 unless the word stands somewhere in the messages."""
    if payload["response_format"]["type"] != "json_object" or b"JSON" in json.dumps(payload["messages"]):
        return
    messages = payload["messages"]
    if messages[0]["role"] == caps["system_role"]:
        messages[0] = {**messages[0], "content": f"{messages[0]['content']}\n\nAnswer with JSON."}
    else:
        messages.insert(0, {"role": caps["system_role"], "content": "Answer with JSON."})


# --- Messages ---------------------------------------------------------------------------------------------------------


def _messages(body: Json, caps: Row, names: Names, losses: Losses, instruction: str) -> list[Json]:
    writer = _Writer(
        caps, names, losses, media.DETAILS.get(body.get("generationConfig", {}).get("mediaResolution", ""), "")
    )
    system = turns.system_text(body, losses)
    if instruction:
        system = f"{system}\n\n{instruction}" if system else instruction
    if system:
        writer.messages.append({"role": caps["system_role"], "content": system})
    found = turns.read(body, losses, short_ids=caps["short_ids"])
    for turn in found:
        if turn.role == "user":
            writer.user(turn)
        else:
            writer.assistant(turn)
    if found and found[-1].role == "model":
        losses.drop("contents")  # a prefill: the model answers it instead of going on with it
    return writer.messages


class _Writer:
    """Turns into messages."""

    def __init__(self, caps: Row, names: Names, losses: Losses, detail: str) -> None:
        self.messages: list[Json] = []
        self._caps = caps
        self._names = names
        self._losses = losses
        self._detail = detail

    def user(self, turn: Turn) -> None:
        shown: list[Json] = []
        for result in turn.results:
            self.messages.append({"role": "tool", "tool_call_id": result.id, "content": result.text(whole_error=True)})
            if result.media:
                shown += self._shown(result)
        if not shown and all(type(item) is Text for item in turn.items):
            if turn.items:
                texts = [item.text for item in turn.items if type(item) is Text]
                self._say(texts[0] if len(texts) == 1 else "\n\n".join(texts), bool(turn.results))
            return
        parts = shown + [self._part(item) for item in turn.items if not isinstance(item, (Call, turns.Opaque))]
        if self._caps["string_content"] and any(part["type"] != "text" for part in parts):
            self._losses.refuse(_first_path(turn), "This deployment only takes text.")
        self._say(
            "\n\n".join(part["text"] for part in parts) if self._caps["string_content"] else parts, bool(turn.results)
        )

    def _say(self, content: str | list[Json], after_results: bool) -> None:
        if after_results and self._caps["alternation"]:
            self.messages.append({"role": "assistant", "content": "."})
        self.messages.append({"role": "user", "content": content})

    def _shown(self, result: Result) -> list[Json]:
        """Files of a result have no place in a tool message: they follow in the user's."""
        self._losses.drop("contents.parts.functionResponse.parts")
        return [{"type": "text", "text": f"[output of {result.name}]"}, *(self._part(item) for item in result.media)]

    def assistant(self, turn: Turn) -> None:
        message: Json = {"role": "assistant", "content": None}
        texts = [item.text for item in turn.items if type(item) is Text]
        if texts:
            message["content"] = "".join(texts)
        if calls := turn.calls:
            message["tool_calls"] = [self._call(call, first=call is calls[0]) for call in calls]
        self.messages.append(message)

    def _call(self, call: Call, *, first: bool) -> Json:
        written: Json = {
            "id": call.id,
            "type": "function",
            "function": {"name": self._names.there(call.name), "arguments": json.dumps(call.args).decode()},
        }
        if self._caps["signatures"] == "extra_content":
            signature = call.signature
            if signature and (signatures.is_own(signature) or signatures.kind(signature) == "garbage"):
                signature = ""
            if first and not signature:
                signature = signatures.DUMMY
            if signature:
                written["extra_content"] = {"google": {"thought_signature": signature}}
        return written

    def _part(self, item: Text | Media) -> Json:
        """One text or file as a content part."""
        if type(item) is Text:
            return {"type": "text", "text": item.text}
        assert isinstance(item, Media)
        media.check(item, media.TAKES[language], self._losses)
        match item.kind:
            case "image":
                image: Json = {"url": item.uri or item.data_url}
                if (detail := item.detail or self._detail) and self._caps["detail"]:
                    image["detail"] = detail
                return {"type": "image_url", "image_url": image}
            case "pdf":
                if not self._caps["file_parts"]:
                    self._losses.refuse(item.path, "This deployment takes no documents.")
                return {"type": "file", "file": {"filename": item.name or "file.pdf", "file_data": item.data_url}}
            case "audio":
                if not self._caps["audio"]:
                    self._losses.refuse(item.path, "This model takes no audio.")
                return {
                    "type": "input_audio",
                    "input_audio": {"data": item.data, "format": media.AUDIO_FORMATS[item.mime]},
                }
            case _:
                text = item.decoded_text()
                return {"type": "text", "text": f"File: {item.name}\n{text}" if item.name else text}


def _first_path(turn: Turn) -> str:
    return next((item.path for item in turn.items if isinstance(item, Media)), "contents")


# --- The answer -------------------------------------------------------------------------------------------------------


@errors.guarded
def response(answer: Json, memo: Memo) -> Json:
    if not isinstance(answer, dict) or (answer.get("error") and not answer.get("choices")):
        return _failed(answer, memo)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UpstreamError("protocol", "The answer has no choices.")
    out = Answer(memo)
    _head(out, answer)
    for position, choice in enumerate(choices):
        candidate = out.candidate(_index(choice, position))
        message = choice.get("message") or {}
        refused = _said(candidate, message)
        for place, call in enumerate(message.get("tool_calls") or ()):
            opened = _Open(place)
            opened.add(call)
            opened.close(candidate)
        if legacy := message.get("function_call"):
            candidate.call("", legacy.get("name", ""), legacy.get("arguments"))
        _finish(candidate, choice, refused)
        if not candidate.reason:
            candidate.finish("STOP")
    for candidate in out.candidates:
        candidate.finish("STOP")
    if counted := answer.get("usage"):
        out.usage(counts.openai(counted))
    return out.whole()


def _head(out: Answer, answer: Json) -> None:
    if name := answer.get("id"):
        out.response_id = str(name)
    if model := answer.get("model"):
        out.model_version = str(model)


def _index(choice: Json, otherwise: int) -> int:
    index = choice.get("index")
    return index if type(index) is int else otherwise


def _said(candidate: Candidate, message: Json) -> bool:
    """Reasoning, text and refusal of a message or delta. Returns whether it was a refusal."""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if reasoning and isinstance(reasoning, str):
        candidate.thought(reasoning)
    content = message.get("content")
    if content:
        if isinstance(content, str):
            candidate.text(content)
        elif isinstance(content, list):
            _said_in_parts(candidate, content)
    if annotations := message.get("annotations"):
        _ground(candidate, annotations)
    refusal = message.get("refusal")
    if refusal and isinstance(refusal, str):
        candidate.text(refusal)
        return True
    return False


def _said_in_parts(candidate: Candidate, parts: list[Any]) -> None:
    """Some servers answer in parts; a part of type "thinking" holds parts of its own."""
    for part in parts:
        match part:
            case {"type": "text", "text": str(text)}:
                candidate.text(text)
            case {"type": "refusal", "refusal": str(text)}:
                candidate.text(text)
            case {"type": "thinking", "thinking": list(inner)}:
                candidate.thought("".join(each.get("text", "") for each in inner if isinstance(each, dict)))
            case {"type": "thinking", "thinking": str(text)}:
                candidate.thought(text)


def _ground(candidate: Candidate, annotations: Any) -> None:
    """URL citations of search models as grounding chunks."""
    chunks = [
        {"web": {"uri": cited.get("url", ""), "title": cited.get("title", "")}}
        for each in annotations
        if isinstance(each, dict) and isinstance(cited := each.get("url_citation"), dict)
    ]
    if chunks:
        candidate.extra.setdefault("groundingMetadata", {"groundingChunks": []})["groundingChunks"] += chunks


def _finish(candidate: Candidate, choice: Json, refused: bool) -> None:
    reason = choice.get("finish_reason")
    tokens = (choice.get("logprobs") or {}).get("content")
    if tokens:
        candidate.logprobs(tokens)
    if not reason:
        return
    if ratings := blocked.safety_ratings(choice.get("content_filter_results")):
        candidate.extra["safetyRatings"] = ratings
    if refused:
        candidate.finish("SAFETY")
    elif reason == "content_filter":
        candidate.finish("SAFETY", "content_filter")
    else:
        candidate.finish(FINISH_REASONS.get(reason) or _own_reason(str(reason)))


def _own_reason(reason: str) -> str:
    upper = reason.upper()
    return upper if upper in _OWN_REASONS else "STOP"


class _Open:
    """One function call while its pieces arrive."""

    __slots__ = ("arguments", "id", "index", "name", "signature")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.signature = ""
        self.arguments: list[str] = []

    def add(self, piece: Json) -> None:
        function = piece.get("function") or {}
        if not self.id and piece.get("id"):
            self.id = str(piece["id"])
        name = function.get("name")
        if name and name != self.name and not self.arguments:
            self.name += str(name)
        arguments = function.get("arguments")
        if arguments:
            self.arguments.append(arguments if isinstance(arguments, str) else json.dumps(arguments).decode())
        signature = ((piece.get("extra_content") or {}).get("google") or {}).get("thought_signature")
        if signature and isinstance(signature, str):
            self.signature = signature

    def is_over(self, piece: Json) -> bool:
        """Whether a piece of the same index begins a new call: some servers count every call as 0.

        It has a name, and another id; or nobody has ids here, and the arguments so far are an object.
        """
        if not (piece.get("function") or {}).get("name"):
            return False
        given = piece.get("id") or ""
        if self.id:
            return bool(given) and given != self.id
        if given or not self.arguments:
            return bool(self.arguments)
        try:
            return isinstance(json.loads("".join(self.arguments)), dict)
        except json.JSONDecodeError:
            return False

    def close(self, candidate: Candidate) -> None:
        candidate.call(self.id, self.name, "".join(self.arguments), signature=self.signature)


class Stream:
    """One stream's memory. Calls and finish are held for the last chunk, because usage comes after them."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        self._out = Answer(memo)
        self._calls: dict[int, list[_Open]] = {}  # choice index -> its calls, in order
        self._refused: set[int] = set()
        self._begun = False
        self._done = False
        self._blocked = False
        self.counted: Json | None = None
        self.ended = False

    @errors.guarded
    def feed(self, frame: Frame) -> list[Json]:
        if frame.data == b"[DONE]":
            self._done = True
            return []
        try:
            chunk = json.loads(frame.data)
        except json.JSONDecodeError:
            raise UpstreamError("protocol", "A chunk of the stream is not JSON.") from None
        if not isinstance(chunk, dict) or chunk.get("error") or (frame.event == "error" and not chunk.get("choices")):
            return self._error(chunk)
        if not self._begun:
            self._begun = bool(chunk.get("model"))
            _head(self._out, chunk)
        for position, choice in enumerate(chunk.get("choices") or ()):
            self._choice(choice, position)
        if counted := chunk.get("usage"):
            self.counted = counts.openai(counted)
            self._out.usage(self.counted)
        self.ended = self._out.stopped
        return self._out.take()

    @errors.guarded
    def finish(self) -> list[Json]:
        if self._blocked:
            return []
        if not (self._done or self._out.stopped or self._out.finished):
            raise UpstreamError("cut", "The stream ended before its answer did.")
        for candidate in self._out.candidates:
            for call in self._calls.get(candidate.index, ()):
                call.close(candidate)
            candidate.finish("STOP")
        return self._out.end()

    def _choice(self, choice: Json, position: int) -> None:
        index = _index(choice, position)
        candidate = self._out.candidate(index)
        delta = choice.get("delta")
        if delta:
            if _said(candidate, delta):
                self._refused.add(index)
            for place, piece in enumerate(delta.get("tool_calls") or ()):
                self._piece(index, piece, place)
            if legacy := delta.get("function_call"):
                self._piece(index, {"index": 0, "function": legacy}, 0)
        if choice.get("finish_reason") or choice.get("logprobs"):
            _finish(candidate, choice, index in self._refused)

    def _piece(self, choice: int, piece: Json, place: int) -> None:
        """Add a piece to its call: the last one of its index, unless the piece says that it begins another."""
        calls = self._calls.setdefault(choice, [])
        index = piece.get("index")
        if type(index) is not int:
            index = place
        found = next((each for each in reversed(calls) if each.index == index), None)
        if found is None or found.is_over(piece):
            found = _Open(index)
            calls.append(found)
        found.add(piece)

    def _error(self, chunk: Any) -> list[Json]:
        answer = _failed(chunk, self._memo)  # raises, unless the prompt was blocked
        if self._out.started:
            raise UpstreamError("cut", "The stream was stopped by a content filter.")
        self._blocked = self.ended = True
        return [answer]


# --- Errors -----------------------------------------------------------------------------------------------------------


def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json:
    body = errors.read(refusal.body)
    if _is_blocked(body):
        return blocked.prompt(memo, _filter_result(body))
    understood = errors.understood(refusal, body, ERROR_WORDS)
    return _in_context(understood, body)


def _failed(answer: Any, memo: Memo) -> Json:
    """An error object where an answer was expected: raises it, or returns the answer to a blocked prompt."""
    body = errors.read_value(answer)
    if _is_blocked(body):
        return blocked.prompt(memo, _filter_result(body))
    status = int(body.code) if body.code.isdigit() else None
    kind = ERROR_WORDS.get(body.code) or ERROR_WORDS.get(body.type) or errors.kind_of_status(status or 503)
    raise _in_context(errors.of_kind(kind, body, status=status, retry_after=errors.retry_after({}, body)), body)


def _in_context(error: UpstreamError, body: ErrorBody) -> UpstreamError:
    """What the code alone does not tell: a limit of money, a prompt too long, a field that can be left out."""
    if body.code.endswith("_spend_limit_exceeded"):
        error.kind, error.retry_after = "billing", None
    if error.kind != "invalid":
        return error
    if _ROOM_WORDS.search(body.message):
        error.kind, error.message = "too_long", errors.TOO_LONG
    elif errors.is_bad_key(body):
        error.kind = "credential"
    elif errors.is_about_signatures(body):
        error.drop_field = "thoughtSignature"
    elif body.code in _UNSUPPORTED or body.message.startswith(("Unsupported parameter", "Unsupported value")):
        named = body.param or next(iter(_FIELD_IN_MESSAGE.findall(body.message)), "")
        error.drop_field = errors.dispensable(named, DISPENSABLE)
    return error


def _is_blocked(body: ErrorBody) -> bool:
    inner = body.raw.get("innererror")
    return body.code in blocked.CODES or (isinstance(inner, dict) and inner.get("code") in blocked.CODES)


def _filter_result(body: ErrorBody) -> Any:
    inner = body.raw.get("innererror")
    return inner.get("content_filter_result") if isinstance(inner, dict) else None


# --- Embeddings -------------------------------------------------------------------------------------------------------


_NOT_EMBEDDED = ("taskType", "title", "autoTruncate", "documentOcr", "audioTrackExtraction")


def embed_request(requests: list[Json], target: Target) -> Letter:
    losses = Losses(target, "OpenAI Embeddings")
    texts = []
    asked = [{**each.get("embedContentConfig", {}), **each} for each in requests]
    for place, each in enumerate(asked):
        for path in each.get("_unknown", ()):
            losses.drop(path)
        for name in _NOT_EMBEDDED:
            if each.get(name):
                losses.drop(name)
        texts.append(_embedded_text(each, f"requests[{place}]", losses))
    payload: Json = {"model": target.model, "input": texts, "encoding_format": "float"}
    sizes = {each.get("outputDimensionality") for each in asked}
    if len(sizes) > 1:
        losses.refuse("outputDimensionality", "All requests of a batch must ask for the same.")
    if size := sizes.pop():
        payload["dimensions"] = size
    return Letter(payload, Memo(model=target.model, action="embed"), losses.paths)


def _embedded_text(given: Json, where: str, losses: Losses) -> str:
    texts = []
    for index, part in enumerate(given["content"]["parts"]):
        if "text" not in part:
            losses.refuse(f"{where}.content.parts[{index}]", "Only text can be embedded here.")
        texts.append(part["text"])
    return "\n".join(texts)


@errors.guarded
def embed_response(answer: Json, memo: Memo) -> list[list[float]]:
    match answer:
        case {"data": list(rows)}:
            return [row["embedding"] for row in sorted(rows, key=lambda row: row.get("index", 0))]
    raise UpstreamError("protocol", "The answer holds no embeddings.")


def embed_usage(answer: Json) -> Json:
    prompt = counts.number(counts.mapping(answer.get("usage")).get("prompt_tokens"))
    return counts.metadata(prompt=prompt, output=0) if prompt else {}
