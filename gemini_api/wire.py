"""The words of the Gemini API, and one spelling for a request: proto-JSON as Google accepts it, in; camelCase, out.

Clients write both spellings in one body, single objects for lists, enums in any case or as numbers, numbers as text,
bytes in either alphabet. `normalise` turns all of that into one form that translators can read without guessing:

    field names in camelCase at every structural level; lists where lists belong; nulls gone; enums as upper-case names;
    int64s as numbers; bytes as standard padded base64; `role` on every content ("user" or "model")

What is user data is never touched: call arguments, function responses, JSON Schemas, names of properties, labels.
Unknown fields stay where they are; their paths stand under "_unknown" (a translated backend declares them lost).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

from gemini_api import signatures
from gemini_api.errors import InvalidArgument
from lib import json

Json = dict[str, Any]

# --- The words --------------------------------------------------------------------------------------------------------


class Blob(TypedDict):
    mimeType: str
    data: str  # standard padded base64
    displayName: NotRequired[str]


class FileData(TypedDict):
    fileUri: str
    mimeType: NotRequired[str]
    displayName: NotRequired[str]


class FunctionCall(TypedDict):
    name: str
    id: NotRequired[str]
    args: NotRequired[Json]


class FunctionResponse(TypedDict):
    name: str
    response: Json
    id: NotRequired[str]
    parts: NotRequired[list[Json]]
    willContinue: NotRequired[bool]


class Part(TypedDict, total=False):
    """Exactly one data field (text ... codeExecutionResult), and flags."""

    text: str
    inlineData: Blob
    fileData: FileData
    functionCall: FunctionCall
    functionResponse: FunctionResponse
    executableCode: Json
    codeExecutionResult: Json
    thought: bool
    thoughtSignature: str


class Content(TypedDict):
    role: str
    parts: list[Part]


class ThinkingConfig(TypedDict, total=False):
    includeThoughts: bool
    thinkingBudget: int
    thinkingLevel: str


class GenerationConfig(TypedDict, total=False):
    temperature: float
    topP: float
    topK: int
    candidateCount: int
    maxOutputTokens: int
    stopSequences: list[str]
    responseMimeType: str
    responseSchema: Json
    responseJsonSchema: Json
    seed: int
    presencePenalty: float
    frequencyPenalty: float
    responseLogprobs: bool
    logprobs: int
    thinkingConfig: ThinkingConfig
    responseModalities: list[str]
    mediaResolution: str


class GenerateRequest(TypedDict):
    contents: list[Content]
    systemInstruction: NotRequired[Content]
    tools: NotRequired[list[Json]]
    toolConfig: NotRequired[Json]
    safetySettings: NotRequired[list[Json]]
    generationConfig: NotRequired[GenerationConfig]
    cachedContent: NotRequired[str]


class UsageMetadata(TypedDict, total=False):
    promptTokenCount: int
    cachedContentTokenCount: int
    candidatesTokenCount: int
    thoughtsTokenCount: int
    toolUsePromptTokenCount: int
    totalTokenCount: int


class Candidate(TypedDict, total=False):
    content: Content
    finishReason: str
    finishMessage: str
    index: int


class GenerateResponse(TypedDict, total=False):
    candidates: list[Candidate]
    promptFeedback: Json
    usageMetadata: UsageMetadata
    modelVersion: str
    responseId: str


# --- One spelling -----------------------------------------------------------------------------------------------------


def normalise(body: Json) -> Json:
    """A generateContent request in one spelling, as a new dict; the given one is unchanged.

    Raises InvalidArgument in Google's words, with the field's path, for values of the wrong type, for contents or
    parts that hold nothing, and for fields that contradict each other.
    """
    out = _read(_GENERATE, body)
    _check_contents(out)
    if "generationConfig" in out:
        _check_config(out["generationConfig"])
    if "tools" in out or "toolConfig" in out:
        _check_tools(out)
    return out


def normalise_count(body: Json) -> Json:
    """A countTokens request as the generateContent request whose tokens are asked for.

    Three forms come in: `contents` alone, a whole `generateContentRequest`, and Vertex's flat one.
    """
    inner = body.get("generateContentRequest", body.get("generate_content_request"))
    if inner is None:
        out = _read(_COUNT, body)
    elif body.get("contents") is not None:
        raise InvalidArgument(
            "Only one of contents and generateContentRequest can be set in a countTokens request.", field="contents"
        )
    else:
        if not isinstance(inner, dict):
            raise _Bad(f"{_TYPE}GenerateContentRequest", inner).told(["generateContentRequest"])
        out = _read(_GENERATE, inner)
    _check_contents(out)
    return out


def normalise_embed(body: Json, *, batch: bool = False, model: str = "") -> list[Json]:
    """The requests of embedContent (one) or batchEmbedContents, each with `content` and maybe taskType, title,
    outputDimensionality.

    model: the path's, without "models/"; a request that names another one is refused, when it is given.
    """
    if batch:
        read = _read(_BATCH, body)
        requests: list[Json] = read.get("requests", [])
        if not requests:
            raise InvalidArgument("* BatchEmbedContentsRequest.requests: requests is not specified", field="requests")
        if unknown := read.get("_unknown"):
            requests[0]["_unknown"] = unknown
    else:
        requests = [_read(_EMBED, body)]
    named = {_bare(request["model"]) for request in requests if request.get("model")} | (
        {_bare(model)} if model else set()
    )
    if len(named) > 1:
        raise InvalidArgument("* The model of every request must match the model in the path.", field="requests.model")
    for place, request in enumerate(requests):
        where = f"requests[{place}].content" if batch else "content"
        parts = request.get("content", {}).get("parts")
        if not parts:
            raise InvalidArgument(f"* EmbedContentRequest.{where}: content is not specified", field=where)
        for index, part in enumerate(parts):
            _check_part(part, f"EmbedContentRequest.{where}.parts[{index}]", f"{where}.parts[{index}]")
    return requests


def normalise_predict(body: Json) -> list[Json]:
    """The texts of Vertex's `predict`, which its SDK sends for embeddings, as requests of batchEmbedContents."""
    read = _read(_PREDICT, body)
    common = {name: value for name, value in read.get("parameters", {}).items() if name != "_unknown"}
    requests = []
    for place, instance in enumerate(read.get("instances", ())):
        if not instance.get("content"):
            where = f"instances[{place}].content"
            raise InvalidArgument(f"* PredictRequest.{where}: content is not specified", field=where)
        own = {name: instance[name] for name in ("taskType", "title") if name in instance}
        requests.append({"content": {"parts": [{"text": instance["content"]}]}, **own, **common})
    if not requests:
        raise InvalidArgument("* PredictRequest.instances: instances is not specified", field="instances")
    if unknown := read.get("_unknown"):
        requests[0]["_unknown"] = unknown
    return requests


def _bare(model: str) -> str:
    return model.rpartition("models/")[2]


# --- Readers: each takes a value as it came, and the list that unknown fields go to -----------------------------------

Unknown = list[list[str]]  # reversed path segments
Reader = Callable[[Any, Unknown], Any]
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1beta."


class _Bad(Exception):
    """A value of the wrong type. Segments of its path are added on the way up."""

    def __init__(self, kind: str, value: Any, problem: str = "") -> None:
        self.kind = kind
        self.value = value
        self.problem = problem
        self.path: list[str] = []

    def told(self, path: list[str]) -> InvalidArgument:
        where = _joined([_snake(step) for step in path])
        shown = f'"{self.value[:100]}"' if isinstance(self.value, str) else _shown(self.value)
        return InvalidArgument(f"Invalid value at '{where}' ({self.kind}), {self.problem}{shown}", field=where)


def _shown(value: Any) -> str:
    return json.dumps(value).decode()[:100]


def _read(reader: Reader, body: Json) -> Json:
    unknown: Unknown = []
    try:
        out: Json = reader(body, unknown)
    except _Bad as bad:
        raise bad.told(bad.path[::-1]) from None
    if unknown:
        out["_unknown"] = [_joined(path[::-1]) for path in unknown]
    return out


def _joined(path: list[str]) -> str:
    return "".join(step if step[:1] == "[" else f".{step}" for step in path).removeprefix(".")


def _snake(camel: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found.group().lower()}", camel)


_CAPITAL = re.compile(r"(?<!^)[A-Z]")


def _message(kind: str, fields: dict[str, Reader | None], aliases: dict[str, str] | None = None) -> Reader:
    """A message of known fields. A reader of None takes the value as it is."""
    table = {spelling: (camel, reader) for camel, reader in fields.items() for spelling in (camel, _snake(camel))}
    for alias, camel in (aliases or {}).items():
        table[alias] = (camel, fields[camel])

    def read(value: Any, unknown: Unknown) -> Json:
        if type(value) is not dict:
            raise _Bad(_TYPE + kind, value)
        out: Json = {}
        seen = len(unknown)
        for key, item in value.items():
            if item is None:
                continue
            entry = table.get(key)
            if entry is None:
                if key[:1] != "_":  # our own private keys never come from a client
                    out[key] = item
                    unknown.append([key])
                    seen += 1
                continue
            camel, reader = entry
            if key != camel and value.get(camel) is not None:
                continue  # both spellings: camelCase wins
            if reader is None:
                out[camel] = item
                continue
            try:
                out[camel] = reader(item, unknown)
            except _Bad as bad:
                bad.path.append(camel)
                raise
            if len(unknown) != seen:
                for path in unknown[seen:]:
                    path.append(camel)
                seen = len(unknown)
        return out

    return read


def _list(reader: Reader) -> Reader:
    """A repeated field; a single value is a list of one, a null inside is no element."""

    def read(value: Any, unknown: Unknown) -> list[Any]:
        if type(value) is not list:
            return [reader(value, unknown)]
        out = []
        seen = len(unknown)
        for index, item in enumerate(value):
            if item is None:
                continue
            try:
                out.append(reader(item, unknown))
            except _Bad as bad:
                bad.path.append(f"[{index}]")
                raise
            if len(unknown) != seen:
                for path in unknown[seen:]:
                    path.append(f"[{index}]")
                seen = len(unknown)
        return out

    return read


def _map(reader: Reader) -> Reader:
    """A map whose keys are the user's."""

    def read(value: Any, unknown: Unknown) -> Json:
        if type(value) is not dict:
            raise _Bad("Map", value)
        out: Json = {}
        for place, (key, item) in enumerate(value.items()):
            if item is None:
                continue
            seen = len(unknown)
            try:
                out[key] = reader(item, unknown)
            except _Bad as bad:
                bad.path += ["value", f"[{place}]"]
                raise
            for path in unknown[seen:]:
                path += ["value", f"[{place}]"]
        return out

    return read


def _text(value: Any, unknown: Unknown) -> str:
    if type(value) is not str:
        raise _Bad("TYPE_STRING", value)
    return value


def _bool(value: Any, unknown: Unknown) -> bool:
    if type(value) is bool:
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise _Bad("TYPE_BOOL", value)


def _integer(kind: str, bits: int) -> Reader:
    most = 2 ** (bits - 1)

    def read(value: Any, unknown: Unknown) -> int:
        number = value
        if type(number) is str:
            try:
                number = int(number) if _DIGITS.fullmatch(number) else float(number)
            except ValueError:
                raise _Bad(kind, value) from None
        if type(number) is float and number.is_integer():
            number = int(number)
        if type(number) is not int or not -most <= number < most:
            raise _Bad(kind, value)
        return number

    return read


_DIGITS = re.compile(r"-?\d{1,19}")


def _float(value: Any, unknown: Unknown) -> float:
    if type(value) is float or type(value) is int:
        return value
    if type(value) is str:
        try:
            number = float(value)
        except ValueError:
            raise _Bad("TYPE_FLOAT", value) from None
        if number == number and abs(number) != float("inf"):
            return number
    raise _Bad("TYPE_FLOAT", value)


_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def _bytes(value: Any, unknown: Unknown) -> str:
    """Base64 in either alphabet, padded or not, as standard padded base64. Checked without decoding: it may be long."""
    if type(value) is not str:
        raise _Bad("TYPE_BYTES", value)
    try:
        raw = value.encode("ascii")
    except UnicodeEncodeError:
        raise _Bad("TYPE_BYTES", value, "Base64 decoding failed for ") from None
    rest = raw.translate(None, _ALPHABET)
    if not rest and not len(raw) % 4:
        return value
    raw = raw.translate(_TO_STANDARD, b" \r\n\t").rstrip(b"=")
    if raw.translate(None, _ALPHABET) or len(raw) % 4 == 1:
        raise _Bad("TYPE_BYTES", value, "Base64 decoding failed for ")
    return (raw + b"=" * (-len(raw) % 4)).decode()


def _signature(value: Any, unknown: Unknown) -> str:
    """A thought signature: base64, or one of the documented words, which are kept. Anything else is none."""
    if type(value) is not str:
        raise _Bad("TYPE_BYTES", value)
    if signatures.is_own(value) or signatures.is_dummy(value):
        return value
    try:
        return _bytes(value, unknown)
    except _Bad:
        return ""


def _enum(kind: str, names: tuple[str, ...], *, closed: bool = True, aliases: dict[str, str] | None = None) -> Reader:
    """An enum by name in any case, or by number. closed: a name we do not know is an error; else it is upper-cased."""
    known = {name: name for name in names} | (aliases or {})

    def read(value: Any, unknown: Unknown) -> str:
        if type(value) is int and 0 <= value < len(names):
            return names[value]
        if type(value) is str:
            name = value.upper()
            if name in known:
                return known[name]
            if not closed:
                return name
        raise _Bad(_TYPE + kind, value)

    return read


def _struct(value: Any, unknown: Unknown) -> Json:
    if type(value) is not dict:
        raise _Bad("type.googleapis.com/google.protobuf.Struct", value)
    return value


_INT32 = _integer("TYPE_INT32", 32)
_INT64 = _integer("TYPE_INT64", 64)
_TEXTS = _list(_text)

# --- The messages -----------------------------------------------------------------------------------------------------

_ROLES = {"user": "user", "model": "model", "function": "user"}  # "function": old samples, for results


def _role(value: Any, unknown: Unknown) -> str:
    if type(value) is not str:
        raise _Bad("TYPE_STRING", value)
    if not value:
        return "user"
    return _ROLES.get(value) or _ROLES.get(value.lower(), "")  # "": refused where its place is known


_BLOB = _message("Blob", {"mimeType": _text, "data": _bytes, "displayName": _text})
_FILE = _message("FileData", {"fileUri": _text, "mimeType": _text, "displayName": _text})
_RESOLUTIONS = tuple(f"MEDIA_RESOLUTION_{name}" for name in ("UNSPECIFIED", "LOW", "MEDIUM", "HIGH", "ULTRA_HIGH"))
_PART = _message(
    "Part",
    {
        "text": _text,
        "inlineData": _BLOB,
        "fileData": _FILE,
        "functionCall": _message(
            "FunctionCall", {"id": _text, "name": _text, "args": _struct, "partialArgs": None, "willContinue": _bool}
        ),
        "functionResponse": _message(
            "FunctionResponse",
            {
                "id": _text,
                "name": _text,
                "response": _struct,
                "parts": _list(_message("FunctionResponsePart", {"inlineData": _BLOB, "fileData": _FILE})),
                "willContinue": _bool,
                "scheduling": None,
            },
        ),
        "executableCode": _message(
            "ExecutableCode",
            {"id": _text, "language": _enum("ExecutableCode.Language", ("LANGUAGE_UNSPECIFIED", "PYTHON"), closed=False), "code": _text},
        ),
        "codeExecutionResult": _message(
            "CodeExecutionResult",
            {
                "id": _text,
                "outcome": _enum(
                    "CodeExecutionResult.Outcome",
                    ("OUTCOME_UNSPECIFIED", "OUTCOME_OK", "OUTCOME_FAILED", "OUTCOME_DEADLINE_EXCEEDED"),
                    closed=False,
                ),
                "output": _text,
            },
        ),
        "toolCall": _struct,
        "toolResponse": _struct,
        "thought": _bool,
        "thoughtSignature": _signature,
        "videoMetadata": _message(
            "VideoMetadata", {"startOffset": None, "endOffset": None, "fps": None, "contentLayers": None}
        ),
        "mediaResolution": _message(
            "MediaResolution",
            {"level": _enum("MediaResolution.Level", _RESOLUTIONS, closed=False), "numTokens": _INT32},
        ),
        "partMetadata": None,
        "mediaProcessing": None,
        "speechMetadata": None,
        "documentMetadata": None,
        "spreadsheetMetadata": None,
        "audioMetadata": None,
        "audioTranscription": None,
    },
)  # fmt: skip
_PARTS = _list(_PART)
_CONTENT = _message("Content", {"role": _role, "parts": _PARTS})
_INSTRUCTION = _message("Content", {"role": lambda value, unknown: "user", "parts": _PARTS})

_SCHEMA_TYPES = ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
_schema_type = _enum("Type", _SCHEMA_TYPES)


def _schema(value: Any, unknown: Unknown) -> Json:
    """A Schema. A list of types, which only JSON Schema has, is read as far as Gemini can say it (T or null)."""
    kinds = value.get("type") if type(value) is dict else None
    if type(kinds) is list:
        solid = [kind for kind in kinds if str(kind).lower() != "null"]
        if len(solid) == 1:
            value = {**value, "type": solid[0], "nullable": len(solid) < len(kinds)}
    schema: Json = _plain_schema(value, unknown)
    return schema


def _schema_or_bool(value: Any, unknown: Unknown) -> Json | bool:
    return value if type(value) is bool else _schema(value, unknown)


def _enum_values(value: Any, unknown: Unknown) -> list[str]:
    values = value if type(value) is list else [value]
    return [each if type(each) is str else _shown(each) for each in values if each is not None]


_SCHEMAS = _map(_schema)
_plain_schema = _message(
    "Schema",
    {
        "type": _schema_type,
        "format": _text,
        "title": _text,
        "description": _text,
        "nullable": _bool,
        "enum": _enum_values,
        "items": _schema,
        "minItems": _INT64,
        "maxItems": _INT64,
        "minLength": _INT64,
        "maxLength": _INT64,
        "minProperties": _INT64,
        "maxProperties": _INT64,
        "properties": _SCHEMAS,
        "required": _TEXTS,
        "minimum": _float,
        "maximum": _float,
        "pattern": _text,
        "example": None,
        "default": None,
        "anyOf": _list(_schema),
        "propertyOrdering": _TEXTS,
        "additionalProperties": _schema_or_bool,
        "defs": _SCHEMAS,
        "ref": _text,
    },
    aliases={"$defs": "defs", "$ref": "ref"},
)

_BUILT_IN = (
    "googleSearch", "googleSearchRetrieval", "codeExecution", "urlContext", "fileSearch", "googleMaps", "computerUse",
    "mcpServers", "retrieval", "enterpriseWebSearch", "parallelAiSearch", "exaAiSearch",
)  # fmt: skip
_TOOL = _message(
    "Tool",
    {
        "functionDeclarations": _list(
            _message(
                "FunctionDeclaration",
                {
                    "name": _text,
                    "description": _text,
                    "parameters": _schema,
                    "parametersJsonSchema": None,
                    "response": _schema,
                    "responseJsonSchema": None,
                    "behavior": None,
                },
            )
        ),
        **dict.fromkeys(_BUILT_IN, None),
    },
)
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_TOOL_CONFIG = _message(
    "ToolConfig",
    {
        "functionCallingConfig": _message(
            "FunctionCallingConfig",
            {
                "mode": _enum("FunctionCallingConfig.Mode", _MODES),
                "allowedFunctionNames": _TEXTS,
                "streamFunctionCallArguments": _bool,
            },
        ),
        "retrievalConfig": None,
        "includeServerSideToolInvocations": None,
    },
)
_THRESHOLDS = (
    "HARM_BLOCK_THRESHOLD_UNSPECIFIED", "BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH",
    "BLOCK_NONE", "OFF",
)  # fmt: skip
_SAFETY = _message(
    "SafetySetting",
    {
        "category": _enum("HarmCategory", (), closed=False),
        "threshold": _enum("SafetySetting.HarmBlockThreshold", _THRESHOLDS, closed=False),
        "method": None,
    },
)
_LEVELS = ("THINKING_LEVEL_UNSPECIFIED", "LOW", "HIGH", "MEDIUM", "MINIMAL", "XHIGH")
_CONFIG = _message(
    "GenerationConfig",
    {
        "temperature": _float,
        "topP": _float,
        "topK": _INT32,
        "candidateCount": _INT32,
        "maxOutputTokens": _INT32,
        "stopSequences": _TEXTS,
        "responseMimeType": _text,
        "responseSchema": _schema,
        "responseJsonSchema": None,
        "responseFormat": None,
        "seed": _INT32,
        "presencePenalty": _float,
        "frequencyPenalty": _float,
        "responseLogprobs": _bool,
        "logprobs": _INT32,
        "thinkingConfig": _message(
            "ThinkingConfig",
            {
                "includeThoughts": _bool,
                "thinkingBudget": _INT32,
                "thinkingLevel": _enum("ThinkingConfig.ThinkingLevel", _LEVELS),
            },
        ),
        "responseModalities": _list(
            _enum(
                "GenerationConfig.Modality", ("MODALITY_UNSPECIFIED", "TEXT", "IMAGE", "AUDIO", "VIDEO"), closed=False
            )
        ),
        "mediaResolution": _enum("GenerationConfig.MediaResolution", _RESOLUTIONS, closed=False),
        "speechConfig": None,
        "imageConfig": None,
        "audioTranscriptionConfig": None,
        "translationConfig": None,
        "enableAffectiveDialog": None,
        "audioTimestamp": None,
        "routingConfig": None,
        "modelSelectionConfig": None,
        "modelConfig": None,
        "enableEnhancedCivicAnswers": None,
    },
    aliases={"_responseJsonSchema": "responseJsonSchema", "_response_json_schema": "responseJsonSchema"},
)
_GENERATE_FIELDS: dict[str, Reader | None] = {
    "contents": _list(_CONTENT),
    "systemInstruction": _INSTRUCTION,
    "tools": _list(_TOOL),
    "toolConfig": _TOOL_CONFIG,
    "safetySettings": _list(_SAFETY),
    "generationConfig": _CONFIG,
    "cachedContent": _text,
    "labels": None,
    "serviceTier": None,
    "store": _bool,
    "continuationToken": _bytes,
    "model": _text,
    "modelArmorConfig": None,
    "outputConfig": None,
}
_GENERATE = _message("GenerateContentRequest", _GENERATE_FIELDS)
_COUNT = _message("CountTokensRequest", {**_GENERATE_FIELDS, "instances": None})
_EMBED_FIELDS: dict[str, Reader | None] = {
    "model": _text,
    "content": _INSTRUCTION,
    "taskType": _enum("TaskType", (), closed=False),
    "title": _text,
    "outputDimensionality": _INT32,
    "autoTruncate": _bool,
    "embedContentConfig": _message(
        "EmbedContentConfig",
        {
            "taskType": _enum("TaskType", (), closed=False),
            "title": _text,
            "outputDimensionality": _INT32,
            "autoTruncate": _bool,
            "documentOcr": None,
            "audioTrackExtraction": None,
        },
    ),
}
_EMBED = _message("EmbedContentRequest", _EMBED_FIELDS)
_BATCH = _message("BatchEmbedContentsRequest", {"requests": _list(_EMBED)})
_INSTANCE: dict[str, Reader | None] = {
    "content": _text,
    "taskType": _enum("TaskType", (), closed=False),
    "title": _text,
    "mimeType": None,
}
_PREDICT = _message(
    "PredictRequest",
    {
        "instances": _list(_message("Instance", _INSTANCE)),
        "parameters": _message("Parameters", {"outputDimensionality": _INT32, "autoTruncate": _bool}),
    },
)

# --- What must hold between fields ------------------------------------------------------------------------------------

_DATA = frozenset(
    {
        "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
        "toolCall", "toolResponse",
    }
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_MIMES = frozenset({"", "text/plain", "application/json", "text/x.enum", "application/xml", "application/yaml"})


def _check_contents(out: Json) -> None:
    contents = out.get("contents")
    if not contents:
        raise InvalidArgument("* GenerateContentRequest.contents: contents is not specified", field="contents")
    for index, content in enumerate(contents):
        if not content.setdefault("role", "user"):
            raise InvalidArgument("Please use a valid role: user, model.", field=f"contents[{index}].role")
        parts = content.get("parts")
        if not parts:
            where = f"contents[{index}].parts"
            raise InvalidArgument(f"* GenerateContentRequest.{where}: contents.parts must not be empty.", field=where)
        for place, part in enumerate(parts):
            if "text" in part and len(part) == 1:
                continue
            where = f"contents[{index}].parts[{place}]"
            _check_part(part, f"GenerateContentRequest.{where}", where)


def _check_part(part: Json, named: str, where: str) -> None:
    if part.get("thoughtSignature") == "":
        del part["thoughtSignature"]
    found = part.keys() & _DATA
    if len(found) == 1:
        kind = next(iter(found))
        if kind in ("functionCall", "functionResponse") and not part[kind].get("name"):
            field = f"{where}.{_snake(kind)}.name"
            raise InvalidArgument(f"* {named}.{_snake(kind)}.name: Name cannot be empty.", field=field)
        if kind == "inlineData" and not part[kind].get("mimeType"):
            raise InvalidArgument(
                f"* {named}.inline_data.mime_type: mime_type is not specified", field=f"{where}.inline_data.mime_type"
            )
        if kind == "fileData" and not part[kind].get("fileUri"):
            raise InvalidArgument(
                f"* {named}.file_data.file_uri: file_uri is not specified", field=f"{where}.file_data.file_uri"
            )
        return
    if found:
        second = _snake(sorted(found)[1])
        raise InvalidArgument(
            f"Invalid value at '{where}' (oneof), oneof field 'data' is already set. Cannot set '{second}'", field=where
        )
    if "thoughtSignature" not in part:
        raise InvalidArgument(
            f"* {named}.data: required oneof field 'data' must have one initialized field", field=f"{where}.data"
        )
    part["text"] = ""


# field -> least, most, and how Google words the range
_RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0, 2, "must be in the range [0.0, 2.0]."),
    "topP": (0, 1, "must be in the range [0.0, 1.0]."),
    "topK": (1, 2**31, "must be positive."),
    "candidateCount": (1, 8, "must be in the range [1, 8]."),
    "maxOutputTokens": (1, 2**31, "must be positive."),
    "presencePenalty": (-2, 2, "must be in the range [-2.0, 2.0)."),
    "frequencyPenalty": (-2, 2, "must be in the range [-2.0, 2.0)."),
    "logprobs": (0, 20, "must be in the range [0, 20]."),
}
_MOST_STOPS, _LONGEST_STOP = 5, 1000


def _check_config(config: Json) -> None:
    for name in config:
        if name in _RANGES:
            least, most, words = _RANGES[name]
            if not least <= config[name] <= most:
                raise _wrong(name, f"{_snake(name)} {words}")
    thinking = config.get("thinkingConfig")
    if thinking and "thinkingBudget" in thinking and thinking.get("thinkingLevel", _LEVELS[0]) != _LEVELS[0]:
        raise _wrong("thinkingConfig", "You can only set one of thinking budget and thinking level.")
    if "responseSchema" in config and "responseJsonSchema" in config:
        raise _wrong("responseJsonSchema", "only one of response_schema and response_json_schema can be set.")
    stops = config.get("stopSequences", ())
    if len(stops) > _MOST_STOPS or any(len(stop) > _LONGEST_STOP for stop in stops):
        raise _wrong(
            "stopSequences", f"at most {_MOST_STOPS} stop sequences of {_LONGEST_STOP} characters are allowed."
        )
    if config.get("logprobs") and not config.get("responseLogprobs"):
        raise _wrong("logprobs", "logprobs can only be set when response_logprobs is true.")
    if config.get("responseMimeType", "") not in _MIMES:
        raise _wrong(
            "responseMimeType",
            "allowed mimetypes are `text/plain`, `application/json`, `application/xml`, `application/yaml` and `text/x.enum`.",
        )


def _wrong(name: str, words: str) -> InvalidArgument:
    field = f"generation_config.{_snake(name)}"
    return InvalidArgument(f"* GenerateContentRequest.{field}: {words}", field=field)


def _check_tools(out: Json) -> None:
    declared: set[str] = set()
    for index, tool in enumerate(out.get("tools", ())):
        for place, declaration in enumerate(tool.get("functionDeclarations", ())):
            _check_declaration(declaration, f"tools[{index}].function_declarations[{place}]", declared)
    calling = out.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = calling.get("allowedFunctionNames")
    if not allowed:
        return
    field = "tool_config.function_calling_config.allowed_function_names"
    if calling.get("mode", "AUTO") not in ("ANY", "VALIDATED"):
        raise InvalidArgument(
            "Allowed function names should only be set when the function calling mode is ANY or VALIDATED.", field=field
        )
    for name in allowed:
        if name not in declared:
            raise InvalidArgument(
                f"Allowed function name '{name}' is not among the function declarations.", field=field
            )


def _check_declaration(declaration: Json, where: str, declared: set[str]) -> None:
    name = declaration.get("name", "")
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"* GenerateContentRequest.{where}.name: Invalid function name. Must start with a letter or an underscore. "
            "Must be alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes (-), with a maximum "
            "length of 128.",
            field=f"{where}.name",
        )
    if name in declared:
        raise InvalidArgument(f"Duplicate function declaration found: {name}", field=f"{where}.name")
    declared.add(name)
    for one, other in (("parameters", "parametersJsonSchema"), ("response", "responseJsonSchema")):
        if one in declaration and other in declaration:
            raise InvalidArgument(
                f"* GenerateContentRequest.{where}.{_snake(other)}: only one of {one} and {_snake(other)} can be set.",
                field=f"{where}.{_snake(other)}",
            )
