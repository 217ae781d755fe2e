"""Gemini itself (Developer API and Vertex AI): hands everything through.

A request leaves as the client's own bytes unless something in it must change: our sealed envelopes go, a field that
only the other platform knows goes, thinkingConfig is put as the model's generation wants it, and calls without a
signature get the documented dummy where signatures are demanded. Answers keep the upstream's bytes.
"""

from __future__ import annotations

import secrets
from typing import Any

from gemini_api import signatures, wire
from gemini_api.translators import capabilities, errors, thinking
from gemini_api.translators import usage as counts
from gemini_api.translators.base import Json, Letter, Memo, Raw, Target
from gemini_api.translators.capabilities import Row
from gemini_api.translators.errors import ErrorBody
from gemini_api.translators.losses import Losses
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal
from routing.framing import Frame

language = "gemini"
BACKEND = "Gemini"

# What one platform takes and the other answers 400 to, by the place of the field: leaving it out is a loss (W) ...
VERTEX_ONLY: dict[str, frozenset[str]] = {
    "": frozenset({"modelArmorConfig", "outputConfig"}),
    "generationConfig": frozenset({"routingConfig", "modelSelectionConfig", "modelConfig", "audioTimestamp"}),
    "tools": frozenset({"retrieval", "enterpriseWebSearch", "parallelAiSearch", "exaAiSearch"}),
    "toolConfig": frozenset(),
    "functionCallingConfig": frozenset({"streamFunctionCallArguments"}),
    "parts": frozenset(),
}
DEVELOPER_ONLY: dict[str, frozenset[str]] = {
    "": frozenset(),
    "generationConfig": frozenset({"enableEnhancedCivicAnswers"}),
    "tools": frozenset({"fileSearch", "mcpServers"}),
    "toolConfig": frozenset({"includeServerSideToolInvocations"}),
    "functionCallingConfig": frozenset(),
    "parts": frozenset({"toolCall", "toolResponse"}),
}
# ... or bookkeeping (I).
_VERTEX_BOOKKEEPING = frozenset({"labels"})
_DEVELOPER_BOOKKEEPING = frozenset({"store"})
_DEVELOPER_PART_BOOKKEEPING = frozenset({"partMetadata"})

PLAIN_TIERS = frozenset({"FLEX", "STANDARD", "UNSPECIFIED"})  # ends of their names; all others cost more

ERROR_WORDS: dict[str, Kind] = {
    "INVALID_ARGUMENT": "invalid",
    "FAILED_PRECONDITION": "credential",  # the project's billing or location: nothing the caller can change
    "UNAUTHENTICATED": "credential",
    "PERMISSION_DENIED": "credential",
    "NOT_FOUND": "not_found",
    "RESOURCE_EXHAUSTED": "rate_limited",
    "DEADLINE_EXCEEDED": "timeout",
    "UNAVAILABLE": "unavailable",
    "INTERNAL": "server",
    "ABORTED": "conflict",
    "CANCELLED": "unavailable",
}


# --- The request ------------------------------------------------------------------------------------------------------


def request(body: Json, target: Target) -> Letter:
    """The normalised request, with what must change changed."""
    letter, _ = _adapted(body, target)
    return letter


def request_bytes(raw: bytes, body: Json, target: Target) -> Letter:
    """The client's own bytes when nothing must change. `body` is `raw` parsed, in the client's spelling."""
    caps = capabilities.of("gemini", target)
    if _needs_nothing(body, caps):
        return Letter(raw, Memo(model=target.model))
    letter, changed = _adapted(wire.normalise(body), target)
    if changed or "model" in body or _lacks_role(body):
        return letter
    return Letter(raw, letter.memo, letter.dropped, letter.sealed)


_COMMON_TOP = frozenset(
    {
        "contents", "systemInstruction", "system_instruction", "tools", "safetySettings", "safety_settings",
        "generationConfig", "generation_config", "cachedContent", "cached_content",
    }
)  # fmt: skip
_COMMON_CONFIG = frozenset(
    {
        "temperature", "topP", "top_p", "topK", "top_k", "maxOutputTokens", "max_output_tokens", "candidateCount",
        "candidate_count", "stopSequences", "stop_sequences", "seed", "responseMimeType", "response_mime_type",
        "responseSchema", "response_schema", "responseJsonSchema", "response_json_schema", "responseModalities",
        "response_modalities", "thinkingConfig", "thinking_config", "presencePenalty", "presence_penalty",
        "frequencyPenalty", "frequency_penalty",
    }
)  # fmt: skip
_COMMON_TOOL = frozenset({"functionDeclarations", "function_declarations", "googleSearch", "google_search"})
_COMMON_PARTS = frozenset({"text", "inlineData", "inline_data", "functionResponse", "function_response"})


_THINKING = ("thinkingConfig", "thinking_config")
_CALL = ("functionCall", "function_call")
_SIGNATURE = ("thoughtSignature", "thought_signature")


def _needs_nothing(body: Json, caps: Row) -> bool:
    """Whether a request, in the client's own spelling, certainly needs no change. False only means: look closer.

    What it knows are the fields that both platforms take; a gemini-cli turn of 50 KB passes in some 20 µs.
    """
    if not body.keys() <= _COMMON_TOP:
        return False
    config = body.get("generationConfig") or body.get("generation_config")
    if config and not (type(config) is dict and _is_common(config, caps)):
        return False
    for tool in body.get("tools") or ():
        if type(tool) is not dict or not tool.keys() <= _COMMON_TOOL:
            return False
    contents = body.get("contents")
    if type(contents) is not list or not contents:
        return False
    return all(_is_plain(content, caps) for content in contents)


def _is_common(config: Json, caps: Row) -> bool:
    return config.keys() <= _COMMON_CONFIG and all(
        _is_suited(config[name], caps) for name in _THINKING if name in config
    )


def _is_suited(asked: Any, caps: Row) -> bool:
    """Whether a thinkingConfig is already as the model takes it."""
    mode = caps["thinking"]
    if mode == "any":
        return True
    if not mode or type(asked) is not dict:
        return False
    level, budget = (
        _either(asked, "thinkingLevel", "thinking_level"),
        _either(asked, "thinkingBudget", "thinking_budget"),
    )
    if level is not None:
        return budget is None and mode != "budget" and type(level) is str and level.lower() in caps["efforts"]
    least, most = caps["budget_range"]
    return budget is None or (mode != "level" and type(budget) is int and least <= budget <= most)


def _either(message: Json, *spellings: str) -> Any:
    return next((message[name] for name in spellings if name in message), None)


def _is_plain(content: Any, caps: Row) -> bool:
    if type(content) is not dict or content.get("role") not in ("user", "model"):
        return False
    parts = content.get("parts")
    if type(parts) is not list or not parts:
        return False
    called = False
    for part in parts:
        if type(part) is not dict:
            return False
        if len(part) == 1 and part.keys() <= _COMMON_PARTS:
            continue
        signature = _either(part, *_SIGNATURE)
        if signature is not None and not (
            type(signature) is str and signatures.kind(signature) in ("foreign", "dummy")
        ):
            return False
        call = _either(part, *_CALL)
        if type(call) is not dict or len(part) != (1 if signature is None else 2):
            return False
        if signature is None and not called and caps["signatures"]:
            return False
        called = True
    return True


def _lacks_role(body: Json) -> bool:
    """Some models demand a role on every content, and old ones say "function" where "user" is meant."""
    contents = body.get("contents")
    found = contents if isinstance(contents, list) else [contents]
    return any(isinstance(each, dict) and each.get("role") not in ("user", "model") for each in found)


def _is_vertex(caps: Row, target: Target) -> bool:
    platform = caps["platform"]
    if platform:
        return bool(platform == "vertex")
    return not target.options.keys().isdisjoint(("project", "location", "publisher"))


def _adapted(body: Json, target: Target) -> tuple[Letter, bool]:
    """The letter, and whether it says anything else than the normalised request does."""
    caps = capabilities.of("gemini", target)
    losses = Losses(target, BACKEND)
    editor = _Editor(body, losses, anew=target.signed_anew)
    vertex = _is_vertex(caps, target)
    editor.platform(DEVELOPER_ONLY if vertex else VERTEX_ONLY, vertex=vertex)
    editor.tier(caps)
    editor.thinking(caps)
    sealed = editor.contents(caps, vertex=vertex)
    payload = {name: value for name, value in editor.body.items() if name not in ("_unknown", "model")}
    return Letter(payload, Memo(model=target.model), losses.paths, sealed), editor.changed


class _Editor:
    """Copies what it changes, on the way from the root to the change, and nothing else."""

    def __init__(self, body: Json, losses: Losses, *, anew: bool) -> None:
        self.body = body
        self.changed = False
        self._losses = losses
        self._anew = anew

    def platform(self, foreign: dict[str, frozenset[str]], *, vertex: bool) -> None:
        for name in (_DEVELOPER_BOOKKEEPING if vertex else _VERTEX_BOOKKEEPING) & self.body.keys():
            self._set(name, None)
        for name in foreign[""] & self.body.keys():
            self._losses.drop(name)
            self._set(name, None)
        config = self.body.get("generationConfig", {})
        self._replace("generationConfig", self._without(config, foreign["generationConfig"], "generationConfig"))
        if not all(foreign["tools"].isdisjoint(tool) for tool in self.body.get("tools", ())):
            kept = [self._without(tool, foreign["tools"], "tools") for tool in self.body["tools"]]
            self._set("tools", [tool for tool in kept if tool])
        if tool_config := self.body.get("toolConfig"):
            left = self._without(tool_config, foreign["toolConfig"], "toolConfig")
            if calling := left.get("functionCallingConfig"):
                known = self._without(calling, foreign["functionCallingConfig"], "toolConfig.functionCallingConfig")
                left = left if known is calling else {**left, "functionCallingConfig": known}
            self._replace("toolConfig", left)

    def tier(self, caps: Row) -> None:
        """A faster answer costs more than the price list says: only where the deployment allows it."""
        tier = self.body.get("serviceTier")
        if tier is not None and not caps["dear_tiers"] and str(tier).upper().rpartition("_")[2] not in PLAIN_TIERS:
            self._losses.drop("serviceTier", "This deployment serves at its standard price.")
            self._set("serviceTier", None)

    def thinking(self, caps: Row) -> None:
        config = self.body.get("generationConfig", {})
        asked = config.get("thinkingConfig")
        if asked is None:
            return
        suited = self._suited(asked, caps)
        if suited != asked:
            rest = {name: value for name, value in config.items() if name != "thinkingConfig"}
            self._set("generationConfig", {**rest, "thinkingConfig": suited} if suited else rest)

    def _suited(self, asked: Json, caps: Row) -> Json:
        """A thinkingConfig as the model's generation takes it; {} when it takes none."""
        mode = caps["thinking"]
        where = "generationConfig.thinkingConfig"
        if mode == "any":
            return asked
        if not mode:
            self._losses.drop(where)
            return {}
        effort = thinking.effort(asked)
        if effort is None:  # left to the model: what it cannot be told (level-only, budget-only) is what it does anyway
            wrong = "thinkingBudget" if mode == "level" else "thinkingLevel" if mode == "budget" else ""
            return {name: value for name, value in asked.items() if name != wrong}
        rest = {name: value for name, value in asked.items() if name not in ("thinkingBudget", "thinkingLevel")}
        if effort == "off" and not caps["off"]:
            self._losses.drop(where)
        if mode == "budget":
            return {**rest, "thinkingBudget": _budget(asked.get("thinkingBudget"), effort, caps)}
        if mode == "both" and "thinkingBudget" in asked and (effort != "off" or caps["off"]):
            return asked
        level = thinking.snap(effort, caps["efforts"])
        return {**rest, "thinkingLevel": level.upper()} if level else rest

    def contents(self, caps: Row, *, vertex: bool) -> bool:
        """Signatures that Gemini can read, and parts that the platform knows. Returns whether any is signed."""
        contents: list[Json] = self.body.get("contents", [])
        current = 0 if self._anew else _current_turn(contents)
        signs = self._anew or caps["signatures"]
        sealed = False
        edited = []
        for number, content in enumerate(contents):
            parts = [left for part in content["parts"] if (left := self._part(part, vertex=vertex)) is not None]
            if signs and number >= current and content["role"] == "model":
                parts = _signed(parts)
            sealed = sealed or any("thoughtSignature" in part for part in parts)
            same = len(parts) == len(content["parts"]) and all(
                ours is theirs for ours, theirs in zip(parts, content["parts"], strict=True)
            )
            if same:
                edited.append(content)
            elif parts:
                edited.append({**content, "parts": parts})
        if len(edited) != len(contents) or any(
            ours is not theirs for ours, theirs in zip(edited, contents, strict=True)
        ):
            self._set("contents", edited)
        return sealed

    def _part(self, part: Json, *, vertex: bool) -> Json | None:
        """A part without what is not Gemini's; None when nothing is left of it."""
        signature = part.get("thoughtSignature")
        gone = set()
        if signature is not None and (signatures.is_own(signature) or signatures.kind(signature) == "garbage"):
            gone.add("thoughtSignature")
        if vertex:
            for name in DEVELOPER_ONLY["parts"] & part.keys():
                self._losses.drop(f"contents.parts.{name}")
                gone.add(name)
            gone |= _DEVELOPER_PART_BOOKKEEPING & part.keys()
        if not gone:
            return part
        left = {name: value for name, value in part.items() if name not in gone}
        return None if not left or (left == {"text": ""} and "thoughtSignature" in gone) else left

    def _without(self, message: Json, names: frozenset[str], where: str) -> Json:
        gone = names & message.keys()
        if not gone:
            return message
        for name in sorted(gone):
            self._losses.drop(f"{where}.{name}")
        return {name: value for name, value in message.items() if name not in gone}

    def _replace(self, name: str, value: Json) -> None:
        if value is not self.body.get(name, value):
            self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        """Put `value` there; nothing (None, {}, []) takes the field out."""
        self.changed = True
        self.body = {key: each for key, each in self.body.items() if key != name}
        if value:
            self.body[name] = value


def _budget(asked: int | None, effort: str, caps: Row) -> int:
    least, most = caps["budget_range"]
    budget = thinking.GEMINI_BUDGETS[effort] if asked is None else asked
    if budget == 0 and caps["off"]:
        return 0
    return int(min(max(budget, least), most))


def _current_turn(contents: list[Json]) -> int:
    """Where the current turn begins: after the last user content that says more than function responses."""
    for number in range(len(contents) - 1, -1, -1):
        content = contents[number]
        if content["role"] == "user" and not all("functionResponse" in part for part in content["parts"]):
            return number + 1
    return 0


def _signed(parts: list[Json]) -> list[Json]:
    """The first call of a step must carry a signature: the documented dummy, where there is none."""
    for place, part in enumerate(parts):
        if "functionCall" in part:
            if "thoughtSignature" in part:
                return parts
            return [*parts[:place], {**part, "thoughtSignature": signatures.DUMMY}, *parts[place + 1 :]]
    return parts


# --- The answer -------------------------------------------------------------------------------------------------------


@errors.guarded
def response(answer: Json, memo: Memo) -> Json:
    _check(answer)
    return _with_ids(answer)


@errors.guarded
def response_bytes(raw: bytes, answer: Json, memo: Memo) -> Json:
    """The upstream's own bytes, unless a call needs an id."""
    _check(answer)
    named = _with_ids(answer)
    return Raw(json.escape_line_breaks(raw), answer) if named is answer else named


def _check(answer: Any) -> None:
    if not isinstance(answer, dict) or "error" in answer:
        raise _stream_error(answer)
    if "candidates" not in answer and "promptFeedback" not in answer and "usageMetadata" not in answer:
        raise UpstreamError("protocol", "The answer has neither candidates nor promptFeedback.")


def _with_ids(chunk: Json) -> Json:
    """The same chunk, or a copy in which every function call has an id (the Developer API often sends none)."""
    candidates = chunk.get("candidates")
    if not candidates or not any(
        "functionCall" in part and not part["functionCall"].get("id") for part in _parts_of(candidates)
    ):
        return chunk
    return {**chunk, "candidates": [_candidate_with_ids(candidate) for candidate in candidates]}


def _parts_of(candidates: list[Json]) -> list[Json]:
    return [part for candidate in candidates for part in (candidate.get("content") or {}).get("parts") or ()]


def _candidate_with_ids(candidate: Json) -> Json:
    content = candidate.get("content") or {}
    parts = [
        {**part, "functionCall": {"id": f"call_{secrets.token_hex(12)}", **part["functionCall"]}}
        if "functionCall" in part and not part["functionCall"].get("id")
        else part
        for part in content.get("parts") or ()
    ]
    return {**candidate, "content": {**content, "parts": parts}}


class Stream:
    """Cuts the upstream's frames anew: each chunk one clean line, its JSON untouched.

    The chunk with the finish reason waits for the upstream's end, as every translator's does, so that the call can
    be recorded before it leaves.
    """

    def __init__(self, memo: Memo) -> None:
        self.ended = False
        self._finished = False
        self._held: list[Json] = []

    @errors.guarded
    def feed(self, frame: Frame) -> list[Json]:
        data = frame.data
        try:
            chunk = json.loads(data)
        except json.JSONDecodeError:
            raise UpstreamError("protocol", "A chunk of the stream is not JSON.") from None
        if type(chunk) is not dict or "error" in chunk:
            raise _stream_error(chunk)
        named = _with_ids(chunk) if b'"functionCall"' in data else chunk  # most hold none
        if named is not chunk:
            out: Json = named
        else:
            if b"\n" in data or b"\r" in data:
                data = json.dumps(chunk)  # white space between tokens: inside a string they cannot stand raw
            out = Raw(json.escape_line_breaks(data), chunk)
        self._finished = self._finished or _is_last(chunk)
        if not self._finished:
            return [out]
        leaving, self._held = self._held, [out]
        return leaving

    def finish(self) -> list[Json]:
        if not self._finished:
            raise UpstreamError("cut", "The stream ended before its answer did.")
        held, self._held = self._held, []
        return held


def _is_last(chunk: Json) -> bool:
    """Whether a chunk ends its answer: a finish reason on every candidate it has, or a blocked prompt."""
    candidates = chunk.get("candidates")
    if candidates:
        return all(candidate.get("finishReason") for candidate in candidates)
    return "blockReason" in (chunk.get("promptFeedback") or ())


# --- Errors -----------------------------------------------------------------------------------------------------------


def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json:
    body = errors.read(refusal.body)
    return _understood(body, refusal.status, errors.retry_after(refusal.headers, body))


def _stream_error(chunk: Any) -> UpstreamError:
    """An error where an answer was expected, bare or in a list."""
    body = errors.read_value(chunk)
    status = int(body.code) if body.code.isdigit() else 500
    return _understood(body, status, errors.retry_after({}, body))


def _understood(body: ErrorBody, status: int, retry_after: float | None) -> UpstreamError:
    kind = ERROR_WORDS.get(body.status) or errors.kind_of_status(status)
    drop_field = ""
    if kind == "invalid":
        if errors.is_bad_key(body):
            kind = "credential"
        elif "token count" in body.message and "exceeds the maximum" in body.message:
            kind = "too_long"
        elif errors.is_about_signatures(body):
            drop_field = "thoughtSignature"
    found = errors.of_kind(kind, body, status=status, retry_after=retry_after, drop_field=drop_field)
    found.provider_code = body.status
    if kind == "too_long":
        found.message = errors.redact(body.message)  # Google's own sentence, with the numbers
    if kind in ("invalid", "too_long", "rate_limited"):
        found.details = [kept for detail in body.details if (kept := _detail(detail))]
    if kind == "rate_limited" and found.retry_after is None and _is_daily(body):
        found.retry_after = 3600.0
    return found


_TYPE = "type.googleapis.com/google.rpc."
_KEPT_DETAILS = frozenset({_TYPE + "BadRequest", _TYPE + "LocalizedMessage", _TYPE + "QuotaFailure"})


def _detail(detail: Json) -> Json | None:
    """A detail fit for clients: without projects and links. RetryInfo is written anew by whoever answers."""
    kind = detail.get("@type")
    if kind not in _KEPT_DETAILS:
        return None
    if kind == _TYPE + "QuotaFailure":
        violations = [each for each in detail.get("violations", ()) if isinstance(each, dict)]
        return {"@type": kind, "violations": [_violation(each) for each in violations]}
    clean = _redacted(detail)
    assert isinstance(clean, dict)
    return {**clean, "@type": kind}


def _violation(violation: Json) -> Json:
    """The quota is the deployment's, not the key's. A daily one would make gemini-cli give up although another
    deployment may serve it, so it loses its name."""
    quota = str(violation.get("quotaId", ""))
    out: Json = {"quotaMetric": "upstream", "quotaId": "UpstreamQuota" if _says_daily(quota) else quota}
    if dimensions := violation.get("quotaDimensions"):
        out["quotaDimensions"] = {
            name: value
            for name, value in dimensions.items()
            if name in ("model", "location") and isinstance(value, str)
        }
    if not _says_daily(quota) and "quotaValue" in violation:
        out["quotaValue"] = violation["quotaValue"]
    return {name: value for name, value in out.items() if value}


def _is_daily(body: ErrorBody) -> bool:
    return any(
        _says_daily(str(each.get("quotaId", "")))
        for detail in body.details
        for each in detail.get("violations", ())
        if isinstance(each, dict)
    )


def _says_daily(quota: str) -> bool:
    return "PerDay" in quota or "Daily" in quota


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return errors.redact(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return {name: _redacted(each) for name, each in value.items()} if isinstance(value, dict) else value


# --- Counting and embedding -------------------------------------------------------------------------------------------


def count_request(body: Json, target: Target) -> Letter:
    """The whole request under `generateContentRequest`, as the Developer API counts (Vertex's backend makes it flat)."""
    letter, _ = _adapted(body, target)
    assert isinstance(letter.payload, dict)
    return Letter({"generateContentRequest": letter.payload}, Memo(model=target.model, action="count"), letter.dropped)


def count_response(answer: Json) -> int:
    counted = answer.get("totalTokens")
    if type(counted) is not int:
        raise UpstreamError("protocol", "The answer has no totalTokens.")
    return counted


def embed_request(requests: list[Json], target: Target) -> Letter:
    return Letter({"requests": [_embedding(each) for each in requests]}, Memo(model=target.model, action="embed"))


_EVERYWHERE = ("taskType", "title", "outputDimensionality", "autoTruncate")


def _embedding(given: Json) -> Json:
    """What an embedding is for stands beside the content: every method knows it there, only some inside a config."""
    config = given.get("embedContentConfig", {})
    clean = {name: value for name, value in given.items() if name not in ("_unknown", "model", "embedContentConfig")}
    clean = {name: config[name] for name in _EVERYWHERE if name in config} | clean
    rest = {name: value for name, value in config.items() if name not in _EVERYWHERE}
    return {**clean, "embedContentConfig": rest} if rest else clean


@errors.guarded
def embed_response(answer: Json, memo: Memo) -> list[list[float]]:
    """batchEmbedContents, embedContent, and Vertex's predict."""
    match answer:
        case {"embeddings": [*found]}:
            rows = found
        case {"embedding": dict(one)}:
            rows = [one]
        case {"predictions": [*found]}:
            rows = [each.get("embeddings", {}) for each in found]
        case _:
            raise UpstreamError("protocol", "The answer holds no embeddings.")
    return [row["values"] for row in rows]


def embed_usage(answer: Json) -> Json:
    if usage := counts.mapping(answer.get("usageMetadata")):
        return dict(usage)
    embedded = [
        counts.mapping(counts.mapping(each).get("embeddings")) for each in counts.listed(answer.get("predictions"))
    ]
    counted = sum(counts.number(counts.mapping(each.get("statistics")).get("token_count")) for each in embedded)
    return {"promptTokenCount": counted, "totalTokenCount": counted} if counted else {}
