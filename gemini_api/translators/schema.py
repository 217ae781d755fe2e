"""Schemas: Gemini's dialect (an OpenAPI subset, upper-case types) to JSON Schema and back, and what vendors allow.

Every function returns a new schema or a shared one that nobody may change; none changes what it was given.
Schemas come in as `wire.normalise` leaves them: Gemini's in camelCase with upper-case types, JSON Schemas untouched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gemini_api.errors import InvalidArgument
from gemini_api.translators.base import Json
from gemini_api.translators.losses import Losses
from lib import json

_TYPES = {
    "STRING": "string", "NUMBER": "number", "INTEGER": "integer", "BOOLEAN": "boolean",
    "ARRAY": "array", "OBJECT": "object", "NULL": "null",
}  # fmt: skip
_UPPER = {lower: upper for upper, lower in _TYPES.items()}
_KEPT = ("title", "description", "pattern", "minimum", "maximum", "default")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_FORMATS = frozenset({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})

# Where schemas stand inside a JSON Schema.
_MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SINGLES = frozenset(
    {
        "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames",
        "unevaluatedProperties", "unevaluatedItems", "additionalItems",
    }
)  # fmt: skip
_LEFT_OUT = frozenset({"$schema", "propertyOrdering", "property_ordering", "nullable"})
_OPEN_OBJECT: Json = {"type": "object", "properties": {}}


# --- Gemini -> JSON Schema --------------------------------------------------------------------------------------------


def to_json_schema(given: Json) -> Json:
    """A Gemini Schema as JSON Schema (draft 2020-12)."""
    kind = _TYPES.get(given.get("type", ""))
    out: Json = {"type": kind} if kind else {}
    for name in _KEPT:
        if name in given:
            out[name] = given[name]
    if given.get("format") in _FORMATS:
        out["format"] = given["format"]
    for name in _COUNTS:
        if name in given:
            out[name] = int(given[name])
    if "enum" in given:
        _enum(out, given["enum"])
    if kind == "object" or "properties" in given:
        out["properties"] = {name: to_json_schema(each) for name, each in _ordered(given).items()}
    if given.get("required"):
        out["required"] = list(given["required"])
    if kind == "array" or "items" in given:
        out["items"] = to_json_schema(given.get("items", {}))  # OpenAI refuses an array that does not say of what
    if "anyOf" in given:
        out["anyOf"] = [to_json_schema(each) for each in given["anyOf"]]
    if "additionalProperties" in given:
        extra = given["additionalProperties"]
        out["additionalProperties"] = to_json_schema(extra) if isinstance(extra, dict) else extra
    if "example" in given:
        out["examples"] = [given["example"]]
    if "defs" in given:
        out["$defs"] = {name: to_json_schema(each) for name, each in given["defs"].items()}
    if "ref" in given:
        out["$ref"] = str(given["ref"]).replace("#/defs/", "#/$defs/")
    if given.get("nullable"):
        _allow_null(out)
    return out


def clean(given: Json) -> Json:
    """A client's JSON Schema as vendors want it: types in lower case, properties in their order, no `$schema`.

    gemini-cli writes "OBJECT" inside responseJsonSchema.
    """
    out: Json = {}
    for name, value in given.items():
        if name in _LEFT_OUT:
            continue
        if name == "type":
            out[name] = _lower(value)
        elif name in _MAPS and isinstance(value, dict):
            members = _ordered(given) if name == "properties" else value
            out[name] = {key: clean(each) if isinstance(each, dict) else each for key, each in members.items()}
        elif name in _LISTS and isinstance(value, list):
            out[name] = [clean(each) if isinstance(each, dict) else each for each in value]
        elif name in _SINGLES and isinstance(value, dict):
            out[name] = clean(value)
        else:
            out[name] = value
    if out.get("type") == "array" and not out.keys() & {"items", "prefixItems"}:
        out["items"] = {}  # as above
    if given.get("nullable") is True:
        _allow_null(out)
    return out


def _enum(out: Json, values: list[Any]) -> None:
    """Gemini's enums are strings whatever the type. If one is not a number after all, the type goes."""
    if out.get("type") not in ("integer", "number"):
        out["enum"] = list(values)
        return
    read: Callable[[str], int | float] = int if out["type"] == "integer" else float
    try:
        out["enum"] = [read(value) if isinstance(value, str) else value for value in values]
    except ValueError:
        out["enum"] = list(values)
        del out["type"]


def _allow_null(out: Json) -> None:
    if "anyOf" in out:
        if {"type": "null"} not in out["anyOf"]:
            out["anyOf"] = [*out["anyOf"], {"type": "null"}]
        return
    kind = out.get("type")
    if isinstance(kind, str) and kind != "null":
        out["type"] = [kind, "null"]
    elif isinstance(kind, list) and "null" not in kind:
        out["type"] = [*kind, "null"]
    if "enum" in out and None not in out["enum"]:
        out["enum"] = [*out["enum"], None]


def _ordered(given: Json) -> Json:
    properties: Json = given.get("properties") or {}
    order = given.get("propertyOrdering") or given.get("property_ordering")
    if not isinstance(order, list):
        return properties
    first = {name: properties[name] for name in order if isinstance(name, str) and name in properties}
    return first | properties  # dict order: the first mention decides


def _lower(value: Any) -> Any:
    if isinstance(value, str):
        return _TYPES.get(value.upper(), value)
    return [_lower(each) for each in value] if isinstance(value, list) else value


# --- Parameters of a function -----------------------------------------------------------------------------------------

_MOST_KEPT = 4 * 1024 * 1024  # bytes of schema text


class _Memory:
    """Clients repeat the same declarations in every turn of a conversation: converted once, kept by their text."""

    def __init__(self) -> None:
        self._found: dict[bytes, Json] = {}
        self._size = 0

    def get(self, text: bytes) -> Json | None:
        return self._found.get(text)

    def keep(self, text: bytes, converted: Json) -> None:
        self._size += len(text)
        if self._size > _MOST_KEPT:
            self._found.clear()
            self._size = len(text)
        self._found[text] = converted


_converted = _Memory()


def parameters(declaration: Json, where: str) -> Json:
    """The parameters of a function declaration as a JSON Schema whose root is an object. Shared: never change it.

    Raises InvalidArgument when the root is something else.
    """
    if "parametersJsonSchema" in declaration:
        return _remembered(b"j", declaration["parametersJsonSchema"], clean, f"{where}.parametersJsonSchema")
    return _remembered(b"g", declaration.get("parameters"), to_json_schema, f"{where}.parameters")


def _remembered(dialect: bytes, given: Any, convert: Callable[[Json], Json], where: str) -> Json:
    if not given:
        return _OPEN_OBJECT
    if not isinstance(given, dict):
        raise InvalidArgument(f"The schema at '{where}' must be an object.", field=where)
    key = dialect + json.dumps(given)
    known = _converted.get(key)
    if known is None:
        known = _object_root(convert(given), where)
        _converted.keep(key, known)
    return known


def _object_root(schema: Json, where: str) -> Json:
    if "$ref" in schema:
        schema = _inlined_root(schema)
    kind = schema.get("type")
    if isinstance(kind, list) and "object" in kind:
        kind = "object"
    if kind is None and ("properties" in schema or not (schema.keys() & {"anyOf", "oneOf", "allOf", "enum", "$ref"})):
        kind = "object"
    if kind != "object":
        raise InvalidArgument(f"The schema at '{where}' must describe an object.", field=where)
    return {**schema, "type": "object", "properties": schema.get("properties", {})}


def _inlined_root(schema: Json) -> Json:
    """The schema its root refers to, with the definitions kept beside it."""
    found = resolve(schema, schema["$ref"])
    if found is None:
        return schema
    kept: Json = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return found | kept


def resolve(root: Json, reference: Any) -> Json | None:
    """What a local reference (#/$defs/X) points to; None when it points nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found if isinstance(found, dict) else None


# --- The answer's format ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What the answer must look like. mode: "" (prose), "json" or "enum".

    schema: JSON Schema with an object root, or None for any JSON. wrapped ("json", "enum" or ""): the client's schema
    stands under "value", because vendors want an object; the answer is unwrapped by `chunks`. plain: the client's
    schema as it is, for models that are only asked in words.
    """

    mode: str = ""
    schema: Json | None = None
    wrapped: str = ""
    plain: Json | None = None

    @property
    def in_words(self) -> str:
        """The format as an instruction, for models without structured output (`Memo.json_fallback` reads the answer)."""
        if self.plain is None:
            return "Answer with one JSON value and nothing else." if self.mode else ""
        if self.mode == "enum" and self.plain.get("enum"):
            values = ", ".join(_text(value) for value in self.plain["enum"])
            return f"Answer with exactly one of these values and nothing else: {values}"
        return (
            "Answer with one JSON value that matches this JSON Schema, and nothing else: "
            f"{json.dumps(self.plain).decode()}"
        )


PROSE = AnswerFormat()
_ENUM_TYPES = ("text/x.enum",)


def answer_format(config: Json) -> AnswerFormat:
    """The format that a generationConfig asks for."""
    mime = config.get("responseMimeType", "")
    schema = _given_schema(config)
    if schema is None and mime != "application/json":
        return PROSE
    mode = "enum" if mime in _ENUM_TYPES else "json"
    if not schema:
        return AnswerFormat(mode)
    if "$ref" in schema:
        schema = _inlined_root(schema)
    if mode == "json" and schema.get("type") == "object" and "anyOf" not in schema:
        return AnswerFormat(mode, schema, plain=schema)
    return AnswerFormat(mode, wrap(schema), mode, schema)


def _given_schema(config: Json) -> Json | None:
    given = config.get("responseJsonSchema")
    if isinstance(given, dict):
        return clean(given)
    return to_json_schema(config["responseSchema"]) if config.get("responseSchema") else None


def wrap(schema: Json) -> Json:
    """{"value": schema} as an object schema. Definitions move to the new root; references to the old root follow it."""
    inner = {name: value for name, value in schema.items() if name not in ("$defs", "definitions")}
    outer: Json = {
        "type": "object",
        "properties": {"value": _rooted(inner)},
        "required": ["value"],
        "additionalProperties": False,
    }
    for name in ("$defs", "definitions"):
        if name in schema:
            outer[name] = _rooted(schema[name])
    return outer


def _rooted(value: Any) -> Any:
    if isinstance(value, list):
        return [_rooted(each) for each in value]
    if not isinstance(value, dict):
        return value
    out = {name: _rooted(each) for name, each in value.items()}
    reference = out.get("$ref")
    if (
        isinstance(reference, str)
        and reference.startswith("#")
        and not reference.startswith(("#/$defs", "#/definitions"))
    ):
        out["$ref"] = "#/properties/value" + reference[1:]
    return out


# --- What vendors allow -----------------------------------------------------------------------------------------------

_NOT_STRICT = frozenset(
    {
        "allOf", "not", "if", "then", "else", "patternProperties", "dependentRequired", "dependentSchemas",
        "uniqueItems", "contains", "minContains", "maxContains", "minProperties", "maxProperties", "propertyNames",
        "unevaluatedProperties", "unevaluatedItems", "minLength", "maxLength", "oneOf", "prefixItems",
    }
)  # fmt: skip
_ROOT_FORBIDDEN = ("anyOf", "oneOf", "allOf", "enum", "not")
_LOOK_AROUND = re.compile(r"\(\?(?:[=!]|<[=!])")
_STRICT_DEPTH, _STRICT_PROPERTIES, _STRICT_ENUMS = 10, 5000, 1000


class _NotStrict(Exception):
    """The schema cannot be had in OpenAI's strict mode."""


def strict(schema: Json) -> Json | None:
    """The schema for OpenAI's strict mode; None when it is not eligible.

    Only `additionalProperties: false` is added. An optional property is never made required: the model would invent
    its value.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return None
    try:
        return _Strict().object(schema)
    except _NotStrict:
        return None


class _Strict:
    def __init__(self) -> None:
        self.properties = 0
        self.enums = 0

    def object(self, schema: Json, depth: int = 1) -> Json:
        if depth > _STRICT_DEPTH or not _NOT_STRICT.isdisjoint(schema):
            raise _NotStrict
        if "pattern" in schema and _LOOK_AROUND.search(str(schema["pattern"])):
            raise _NotStrict
        self.enums += len(schema.get("enum", ()))
        out = dict(schema)
        out.pop("examples", None)
        if "properties" in schema or _is(schema, "object"):
            properties = schema.get("properties", {})
            if schema.get("additionalProperties", False) is not False or set(schema.get("required", ())) != set(
                properties
            ):
                raise _NotStrict
            self.properties += len(properties)
            out["properties"] = {name: self._member(each, depth + 1) for name, each in properties.items()}
            out["required"] = list(properties)
            out["additionalProperties"] = False
        for name in ("$defs", "definitions"):
            if name in schema:
                out[name] = {key: self._member(each, depth) for key, each in schema[name].items()}
        if "items" in schema:
            out["items"] = self._member(schema["items"], depth + 1)
        if "anyOf" in schema:
            out["anyOf"] = [self._member(each, depth + 1) for each in schema["anyOf"]]
        if self.properties > _STRICT_PROPERTIES or self.enums > _STRICT_ENUMS:
            raise _NotStrict
        return out

    def _member(self, schema: Any, depth: int) -> Json:
        if not isinstance(schema, dict) or not schema:
            raise _NotStrict  # `{}` and booleans: anything goes, which strict mode does not know
        if not schema.keys() & {"type", "anyOf", "enum", "$ref", "const"}:
            raise _NotStrict
        return self.object(schema, depth)


def openai_parameters(schema: Json, where: str, losses: Losses) -> Json:
    """A function's parameters without what OpenAI refuses at the root (a loss: the model may combine more freely)."""
    refused = [name for name in _ROOT_FORBIDDEN if name in schema]
    if not refused:
        return schema
    losses.drop(where)
    return {name: value for name, value in schema.items() if name not in refused}


_TOLD_IN_WORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
                  "pattern", "maxItems", "uniqueItems", "not", "minProperties", "maxProperties")  # fmt: skip
_ANTHROPIC_KEYS = frozenset(
    {
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "definitions",
        "default",
        "title",
    }
)
_MOST_OPTIONAL = 24


class _NotConvertible(Exception):
    """The schema has something that structured output of this vendor cannot express."""


def for_anthropic(schema: Json) -> Json | None:
    """The schema for Anthropic's structured output and strict tools; None when it does not fit (then: fallback).

    Bounds and patterns move into the description. Recursive schemas, open objects and more than 24 optional
    properties do not fit.
    """
    if _recursive(schema):
        return None
    optional = sum(len(each.get("properties", {})) - len(each.get("required", ())) for each in _walk(schema))
    if optional > _MOST_OPTIONAL:
        return None
    try:
        return _anthropic(schema)
    except _NotConvertible:
        return None


def _anthropic(given: Any) -> Json:
    if not isinstance(given, dict) or not given:
        raise _NotConvertible
    all_of = given.get("allOf")
    if isinstance(all_of, list):
        if len(all_of) != 1:
            raise _NotConvertible
        given = {**{name: value for name, value in given.items() if name != "allOf"}, **all_of[0]}
    out: Json = {name: value for name, value in given.items() if name in _ANTHROPIC_KEYS}
    words = [f"{name}: {json.dumps(given[name]).decode()}" for name in _TOLD_IN_WORDS if name in given]
    if given.get("minItems", 0) in (0, 1):
        out.update({"minItems": given["minItems"]} if "minItems" in given else {})
    else:
        words.append(f"minItems: {given['minItems']}")
    if given.get("format") in _FORMATS:
        out["format"] = given["format"]
    description = given.get("description", "")
    if words:
        description = f"{description} ({', '.join(words)})".strip()
    if description:
        out["description"] = description
    branches = given.get("anyOf") or given.get("oneOf")
    if branches:
        out["anyOf"] = [_anthropic(each) for each in branches]
    if "items" in given:
        out["items"] = _anthropic(given["items"])
    if _is(given, "object") or "properties" in given:
        if not given.get("properties") or given.get("additionalProperties", False) is not False:
            raise _NotConvertible  # an open object comes back empty
        out["properties"] = {name: _anthropic(each) for name, each in given["properties"].items()}
        out["additionalProperties"] = False
    for name in ("$defs", "definitions"):
        if name in given:
            out[name] = {key: _anthropic(each) for key, each in given[name].items()}
    return out


_CONVERSE_LEFT_OUT = frozenset({"$schema", "$id"})
_NOVA_ROOT = frozenset({"type", "properties", "required"})


def for_converse(schema: Json, *, plain_root: bool = False) -> Json:
    """A tool's input schema for Converse. plain_root: Nova takes only type, properties and required at the root."""
    if plain_root:
        return {name: value for name, value in schema.items() if name in _NOVA_ROOT}
    if _CONVERSE_LEFT_OUT.isdisjoint(schema):
        return schema
    return {name: value for name, value in schema.items() if name not in _CONVERSE_LEFT_OUT}


def _is(schema: Json, kind: str) -> bool:
    given = schema.get("type")
    return given == kind or (isinstance(given, list) and kind in given)


def _walk(schema: Any) -> Iterator[Json]:
    """Every schema inside, the given one first."""
    if not isinstance(schema, dict):
        return
    yield schema
    for name, value in schema.items():
        if name in _MAPS and isinstance(value, dict):
            for each in value.values():
                yield from _walk(each)
        elif name in _LISTS and isinstance(value, list):
            for each in value:
                yield from _walk(each)
        elif name in _SINGLES:
            yield from _walk(value)


def _recursive(root: Json) -> bool:
    """Whether a definition can reach itself (or a reference leads out of the schema)."""

    def reaches(schema: Json, path: frozenset[str]) -> bool:
        for each in _walk(schema):
            reference = each.get("$ref")
            if not isinstance(reference, str):
                continue
            if reference in path or reference == "#":
                return True
            found = resolve(root, reference)
            if found is not None and reaches(found, path | {reference}):
                return True
        return False

    body = {name: value for name, value in root.items() if name not in ("$defs", "definitions")}
    return reaches(body, frozenset())


# --- JSON Schema -> Gemini --------------------------------------------------------------------------------------------

_DEEPEST = 12
_STRAIGHT = ("title", "description", "format", "pattern", "minimum", "maximum", "default", *_COUNTS)


def to_gemini(schema: Json) -> Json:
    """A JSON Schema in Gemini's dialect, for endpoints without the *JsonSchema fields.

    References are inlined; a recursive one ends as an object without properties. What Gemini has no word for is left
    out: the schema only becomes wider.
    """
    return _gemini(schema, schema, 0)


def _gemini(given: Any, root: Json, depth: int) -> Json:
    if not isinstance(given, dict):
        return {}
    if depth > _DEEPEST:
        return {"type": "OBJECT"}
    if "$ref" in given:
        found = resolve(root, given["$ref"])
        return _gemini(found, root, depth + 1) if found is not None else {}
    for each in given.get("allOf", ()):
        given = _merged({name: value for name, value in given.items() if name != "allOf"}, each)
    out: Json = {name: given[name] for name in _STRAIGHT if name in given}
    _gemini_type(out, given, root, depth)
    branches = given.get("anyOf") or given.get("oneOf")
    if branches:
        out["anyOf"] = [_gemini(each, root, depth + 1) for each in branches]
    if "const" in given:
        out["enum"] = [_text(given["const"])]
        out.setdefault("type", "STRING")
    elif "enum" in given:
        out["enum"] = [_text(value) for value in given["enum"] if value is not None]
        if None in given["enum"]:
            out["nullable"] = True
        out.setdefault("type", "STRING")
    for name, step, bound in (("exclusiveMinimum", 1, "minimum"), ("exclusiveMaximum", -1, "maximum")):
        if isinstance(given.get(name), (int, float)):
            out[bound] = given[name] + step if out.get("type") == "INTEGER" else given[name]
    if isinstance(given.get("properties"), dict):
        out["properties"] = {name: _gemini(each, root, depth + 1) for name, each in given["properties"].items()}
        required = [name for name in given.get("required", ()) if name in out["properties"]]
        if required:
            out["required"] = required
    if given.get("prefixItems"):
        out["items"] = {"anyOf": [_gemini(each, root, depth + 1) for each in given["prefixItems"]]}
    elif "items" in given:
        out["items"] = _gemini(given["items"], root, depth + 1)
    elif out.get("type") == "ARRAY":
        out["items"] = {}
    return out


def _gemini_type(out: Json, given: Json, root: Json, depth: int) -> None:
    kind = given.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    solid = [each for each in kinds if each != "null"]
    if len(solid) < len(kinds) and solid:
        out["nullable"] = True
    if len(solid) == 1:
        out["type"] = _UPPER.get(solid[0], str(solid[0]).upper())
    elif solid:
        out["anyOf"] = [_gemini({**given, "type": each}, root, depth + 1) for each in solid]
    elif kinds:
        out["type"] = "NULL"


def _merged(one: Json, other: Any) -> Json:
    if not isinstance(other, dict):
        return one
    out = one | other
    if "properties" in one and "properties" in other:
        out["properties"] = one["properties"] | other["properties"]
    if "required" in one and "required" in other:
        out["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return out


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).decode()
