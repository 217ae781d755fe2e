"""Gemini's schemas as JSON Schema and back, and what each vendor allows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import wire
from gemini_api.errors import InvalidArgument
from gemini_api.translators import schema
from gemini_api.translators.base import Target
from gemini_api.translators.losses import Losses

Json = dict[str, Any]


def normalised(given: Json) -> Json:
    config = {"responseMimeType": "application/json", "responseSchema": given}
    body = wire.normalise({"contents": [{"parts": [{"text": "x"}]}], "generationConfig": config})
    found: Json = body["generationConfig"]["responseSchema"]
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "STRING"}, {"type": "string"}),
        ({}, {}),
        ({"type": "TYPE_UNSPECIFIED", "description": "x"}, {"description": "x"}),
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "STRING", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"any_of": [{"type": "STRING"}], "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "INTEGER", "enum": ["1", "2"]}, {"type": "integer", "enum": [1, 2]}),
        ({"type": "NUMBER", "enum": ["1.5"]}, {"type": "number", "enum": [1.5]}),
        ({"type": "INTEGER", "enum": ["1", "many"]}, {"enum": ["1", "many"]}),
        ({"type": "STRING", "format": "enum", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "INTEGER", "format": "int64"}, {"type": "integer"}),
        ({"type": "STRING", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "ARRAY"}, {"type": "array", "items": {}}),
        ({"type": "OBJECT"}, {"type": "object", "properties": {}}),
        (
            {"type": "ARRAY", "items": {"type": "STRING"}, "maxItems": "3"},
            {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        ),
        ({"type": "STRING", "example": "x"}, {"type": "string", "examples": ["x"]}),
        ({"ref": "#/defs/A", "defs": {"A": {"type": "NULL"}}}, {"$ref": "#/$defs/A", "$defs": {"A": {"type": "null"}}}),
        (
            {"type": "OBJECT", "additionalProperties": {"type": "STRING"}},
            {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        ),
        (
            {"type": "OBJECT", "additionalProperties": False},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
    ],
)
def test_gemini_schemas_become_json_schemas(given: Json, expected: Json) -> None:
    assert schema.to_json_schema(normalised(given)) == expected


def test_properties_come_in_the_order_that_was_asked_for() -> None:
    given = {"type": "OBJECT", "properties": {"a": {}, "b": {}, "c": {}}, "propertyOrdering": ["c", "a", "nobody"]}
    found = schema.to_json_schema(normalised(given))
    assert list(found["properties"]) == ["c", "a", "b"]
    assert "propertyOrdering" not in found


def test_an_array_says_of_what() -> None:
    pair: Json = {"type": "array", "prefixItems": [{"type": "string"}]}
    assert schema.clean({"properties": {"a": {"type": "ARRAY"}, "b": pair}})["properties"] == {
        "a": {"type": "array", "items": {}}, "b": pair,
    }  # fmt: skip


def test_json_schemas_lose_their_capitals_and_keep_everything_else() -> None:
    given = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "OBJECT",
        "properties": {
            "type": {"type": ["STRING", "null"], "x-mine": {"type": "OBJECT"}},
            "b": {"anyOf": [{"type": "INTEGER"}]},
        },
        "propertyOrdering": ["b", "type"],
        "additionalProperties": False,
    }
    before = copy.deepcopy(given)
    found = schema.clean(given)
    assert found == {
        "type": "object",
        "properties": {
            "type": {"type": ["string", "null"], "x-mine": {"type": "OBJECT"}},
            "b": {"anyOf": [{"type": "integer"}]},
        },
        "additionalProperties": False,
    }
    assert list(found["properties"]) == ["b", "type"]
    assert given == before


OPEN: Json = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ({"name": "f"}, OPEN),
        ({"name": "f", "parameters": {}}, OPEN),
        ({"name": "f", "parametersJsonSchema": None}, OPEN),
        ({"name": "f", "parametersJsonSchema": {"properties": {"a": {}}}}, {"type": "object", "properties": {"a": {}}}),
        (
            {
                "name": "f",
                "parametersJsonSchema": {
                    "$ref": "#/$defs/P",
                    "$defs": {"P": {"type": "object", "properties": {"a": {}}}},
                },
            },
            {"type": "object", "properties": {"a": {}}, "$defs": {"P": {"type": "object", "properties": {"a": {}}}}},
        ),
        ({"name": "f", "parametersJsonSchema": {"type": ["object", "null"]}}, OPEN),
    ],
)
def test_parameters_are_an_object(declaration: Json, expected: Json) -> None:
    assert schema.parameters(declaration, "tools[0]") == expected


@pytest.mark.parametrize("root", [{"type": "string"}, {"anyOf": [{"type": "object"}]}, [], "object"])
def test_parameters_of_another_kind_are_refused(root: Any) -> None:
    if not root:
        root = [1]
    with pytest.raises(InvalidArgument, match="must"):
        schema.parameters({"name": "f", "parametersJsonSchema": root}, "tools[0]")


def test_an_answer_that_is_no_object_is_wrapped() -> None:
    config = {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"type": "string"}}},
    }
    found = schema.answer_format(config)
    assert found.wrapped == "json"
    assert found.schema == {
        "type": "object",
        "properties": {"value": {"type": "array", "items": {"$ref": "#/$defs/A"}}},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"A": {"type": "string"}},
    }


def test_references_to_the_root_follow_it_into_the_wrapping() -> None:
    tree = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}]}
    found = schema.wrap(tree)
    assert found["properties"]["value"]["anyOf"][1]["items"] == {"$ref": "#/properties/value"}


@pytest.mark.parametrize(
    "eligible",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]},
    ],
)
def test_strict_mode_only_adds_that_nothing_else_may_come(eligible: Json) -> None:
    found = schema.strict(eligible)
    assert found is not None
    assert found["additionalProperties"] is False
    assert found["required"] == list(eligible["properties"])


@pytest.mark.parametrize(
    "schema_",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": True},
        {
            "type": "object",
            "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}},
            "required": ["a"],
        },
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=x)"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "array", "items": {}}}, "required": ["a"]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": {}, "anyOf": [{"type": "object"}]},
    ],
)
def test_what_strict_mode_would_change_is_not_made_strict(schema_: Json) -> None:
    assert schema.strict(schema_) is None


def test_no_optional_property_is_ever_made_required() -> None:
    assert (
        schema.strict(
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}
        )
        is None
    )


def test_root_keywords_that_openai_refuses_are_a_loss() -> None:
    losses = Losses(Target(model="m"), "a test")
    found = schema.openai_parameters({**OPEN, "anyOf": [{"required": ["a"]}]}, "tools.parameters", losses)
    assert found == OPEN
    assert losses.paths == ("tools.parameters",)


def test_anthropic_hears_bounds_in_words() -> None:
    given = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "description": "How many"}},
        "required": ["n"],
    }
    assert schema.for_anthropic(given) == {
        "type": "object",
        "properties": {"n": {"type": "integer", "description": "How many (minimum: 1)"}},
        "required": ["n"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "given",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}},
            "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}},
        },
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(25)}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"type": "string"}]}}},
    ],
)
def test_what_anthropic_cannot_express_is_left_to_words(given: Json) -> None:
    assert schema.for_anthropic(given) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"const": 3}, {"enum": ["3"], "type": "STRING"}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "INTEGER", "enum": ["1", "2"]}),
        ({"oneOf": [{"type": "string"}]}, {"anyOf": [{"type": "STRING"}]}),
        ({"type": "integer", "exclusiveMinimum": 0}, {"type": "INTEGER", "minimum": 1}),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a", "gone"]},
            {"type": "OBJECT", "properties": {"a": {}}, "required": ["a"]},
        ),
        ({"allOf": [{"type": "object"}, {"properties": {"a": {}}}]}, {"type": "OBJECT", "properties": {"a": {}}}),
        (
            {"type": "array", "prefixItems": [{"type": "string"}]},
            {"type": "ARRAY", "items": {"anyOf": [{"type": "STRING"}]}},
        ),
        ({"type": "array"}, {"type": "ARRAY", "items": {}}),
    ],
)
def test_json_schemas_become_gemini_schemas(given: Json, expected: Json) -> None:
    assert schema.to_gemini(given) == expected


def test_a_recursive_schema_ends_somewhere() -> None:
    given = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}}
    assert "$ref" not in str(schema.to_gemini(given))


NOTES = {"nullable": st.booleans(), "description": st.text(max_size=3)}
LEAF = st.fixed_dictionaries(
    {"type": st.sampled_from(["STRING", "NUMBER", "INTEGER", "BOOLEAN", "NULL"])}, optional=NOTES
) | st.fixed_dictionaries(
    {"type": st.just("STRING"), "enum": st.lists(st.text(max_size=3), min_size=1, max_size=3)}, optional=NOTES
)
SCHEMAS = st.recursive(
    LEAF,
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("ARRAY"), "items": inner})
        | st.builds(
            lambda properties, required: {
                "type": "OBJECT",
                "properties": properties,
                "required": [name for name in properties if name in required],
            },
            st.dictionaries(st.sampled_from(["a", "b_c", "type", "properties"]), inner, max_size=3),
            st.sets(st.sampled_from(["a", "b_c", "type"])),
        )
        | st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=2))
    ),
    max_leaves=8,
)
# How long a machine takes to make examples says nothing about the code under test.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(SCHEMAS)
def test_every_schema_survives_the_way_there_and_back(given: Json) -> None:
    before = copy.deepcopy(given)
    there = schema.to_json_schema(normalised(given))
    assert given == before
    names = {key for each in schema._walk(there) for key in each}
    assert names <= {"type", "description", "enum", "items", "properties", "required", "anyOf"}
    back = schema.to_gemini(there)
    assert schema.to_json_schema(normalised(back)) == there


@UNHURRIED
@given(SCHEMAS)
def test_a_strict_schema_demands_everything_it_lists(given: Json) -> None:
    found = schema.strict(schema.to_json_schema(normalised(given)))
    for each in schema._walk(found) if found else ():
        if each.get("type") == "object":
            assert each["additionalProperties"] is False
            assert set(each["required"]) == set(each["properties"])
