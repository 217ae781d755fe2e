"""Checks that several vendors make in their own words: fields of objects, and the JSON Schemas they take."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tests.upstreams.script import Media, Refusal, decoded

JSON_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}


def fields(value: Any, where: str, allowed: str, required: str = "") -> dict[str, Any]:
    """`value` as an object with these fields and no others; both lists are words in one string."""
    if not isinstance(value, dict):
        raise Refusal(f"{where or 'body'}: an object is needed", field=where, why="invalid")
    names = set(allowed.split()) | set(required.split())
    for name in value:
        if name not in names:
            raise Refusal(f"{path(where, name)}: unknown field", field=path(where, name), why="unknown")
    for name in required.split():
        if value.get(name) is None:
            raise Refusal(f"{path(where, name)}: Field required", field=path(where, name), why="missing")
    return value


def items(value: Any, where: str, *, empty: bool = False) -> list[Any]:
    if not isinstance(value, list) or not (value or empty):
        raise Refusal(f"{where}: a non-empty list is needed", field=where, why="invalid")
    return value


def text(value: Any, where: str, *, pattern: str = "", empty: bool = True) -> str:
    if not isinstance(value, str) or (not empty and not value.strip()):
        raise Refusal(f"{where}: text is needed", field=where, why="invalid")
    if pattern and not re.fullmatch(pattern, value):
        raise Refusal(f"{where}: does not match {pattern!r}", field=where, why="invalid")
    return value


def number(value: Any, where: str, low: float, high: float, *, whole: bool = False) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not good or (whole and not isinstance(value, int)):
        raise Refusal(f"{where}: a number from {low} to {high} is needed", field=where, why="invalid")
    return float(value)


def one_of(value: Any, where: str, choices: Iterable[Any]) -> Any:
    if value not in (allowed := list(choices)):
        raise Refusal(f"{where}: one of {allowed} is needed", field=where, why="invalid")
    return value


def path(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def data_url(url: Any, where: str) -> Media:
    """An address the vendor would fetch, or a data URL, whose base64 is checked."""
    text(url, where, pattern=r"(?s)(https?://|data:[\w.+/-]+;base64,).+")
    if url.startswith("data:"):
        mime, _, data = url.removeprefix("data:").partition(";base64,")
        decoded(data, where)
        return Media(mime, data)
    return Media("image/url", url)


# ── JSON Schema ──


def json_schema(schema: Any, where: str) -> None:
    """Well-formed JSON Schema, as far as every vendor looks: lower-case types, lists and objects in their places."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise Refusal(f"{where}: a schema is an object", field=where, why="invalid")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in JSON_TYPES:
            raise Refusal(f"{where}: {kind!r} is not valid under any of the given schemas", field=where, why="invalid")
    for name in ("enum", "required", "anyOf", "oneOf", "allOf"):
        if name in schema and not isinstance(schema[name], list):
            raise Refusal(f"{where}.{name}: a list is needed", field=f"{where}.{name}", why="invalid")
    for name in ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"):
        if name in schema:
            number(schema[name], f"{where}.{name}", float("-inf"), float("inf"))
    for where_below, below in _below(schema, where):
        json_schema(below, where_below)


def object_root(schema: Any, where: str) -> None:
    """What function parameters must be for everybody."""
    json_schema(schema, where)
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Refusal(f"schema must be a JSON Schema of 'type: \"object\"', got {where}", field=where, why="invalid")
    for name in ("anyOf", "oneOf", "allOf", "enum", "not"):
        if name in schema:
            raise Refusal(f"{where}: {name} is not allowed at the top level", field=where, why="invalid")


NOT_STRICT_OPENAI = {
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "patternProperties",
    "dependentRequired",
    "dependentSchemas",
    "uniqueItems",
    "contains",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "minLength",
    "maxLength",
}


def openai_strict(schema: Any, where: str, depth: int = 0) -> None:
    """`strict: true`: every object closed, every property required, and a subset of the keywords."""
    if depth == 0:
        object_root(schema, where)
    if depth > 10:
        raise Refusal(f"{where}: more than 10 levels of nesting", field=where, why="invalid")
    if forbidden := NOT_STRICT_OPENAI & schema.keys():
        raise Refusal(f"In context={where}, {sorted(forbidden)} is not permitted.", field=where, why="invalid")
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            raise Refusal(
                f"In context={where}, 'additionalProperties' is required to be supplied and to be false.",
                field=where,
                why="invalid",
            )
        if set(schema.get("required", [])) != set(schema.get("properties", {})):
            raise Refusal(
                f"In context={where}, 'required' is required to be supplied and to be an array including every key in"
                " properties.",
                field=where,
                why="invalid",
            )
    if schema.get("type") == "array" and "items" not in schema:
        raise Refusal(f"In context={where}, array schema missing items.", field=where, why="invalid")
    for where_below, below in _below(schema, where):
        if isinstance(below, dict):
            openai_strict(below, where_below, depth + 1)


NOT_STRICT_ANTHROPIC = {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "maxItems",
    "uniqueItems",
    "not",
    "oneOf",
    "if",
    "then",
    "else",
    "patternProperties",
    "contains",
}
ANTHROPIC_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}


def anthropic_strict(schema: Any, where: str) -> None:
    """Structured output and strict tools: closed objects, few keywords, few formats."""
    json_schema(schema, where)
    if forbidden := NOT_STRICT_ANTHROPIC & schema.keys():
        kind = schema.get("type", "schema")
        raise Refusal(f"{where}: For '{kind}' type, properties {sorted(forbidden)} are not supported", field=where)
    if schema.get("minItems", 0) > 1:
        raise Refusal(f"{where}: For 'array' type, 'minItems' values other than 0 or 1 are not supported", field=where)
    if schema.get("format") and schema["format"] not in ANTHROPIC_FORMATS:
        raise Refusal(f"{where}: format {schema['format']!r} is not supported", field=where)
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        raise Refusal(
            f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false", field=where
        )
    for where_below, below in _below(schema, where):
        if isinstance(below, dict):
            anthropic_strict(below, where_below)


def _below(schema: dict[str, Any], where: str) -> Iterable[tuple[str, Any]]:
    for name in ("properties", "$defs", "patternProperties"):
        if not isinstance(schema.get(name, {}), dict):
            raise Refusal(f"{where}.{name}: an object is needed", field=f"{where}.{name}", why="invalid")
        yield from ((f"{where}.{name}.{key}", below) for key, below in schema.get(name, {}).items())
    for name in ("items", "additionalProperties", "not"):
        if name in schema:
            yield f"{where}.{name}", schema[name]
    for name in ("anyOf", "oneOf", "allOf"):
        yield from ((f"{where}.{name}.{place}", below) for place, below in enumerate(schema.get(name, [])))
