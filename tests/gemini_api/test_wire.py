"""What Google's JSON accepts is read in one spelling; what it refuses is refused in Google's words."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import wire
from gemini_api.errors import InvalidArgument

Json = dict[str, Any]
HI = [{"role": "user", "parts": [{"text": "hi"}]}]


def normalised(**fields: Any) -> Json:
    return wire.normalise({"contents": HI, **fields})


def refused(body: Json) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as found:
        wire.normalise(body)
    return found.value


def test_single_objects_stand_for_lists() -> None:
    body = wire.normalise({"contents": {"parts": {"text": "hi"}}, "tools": {"function_declarations": {"name": "f"}}})
    assert body["contents"] == HI
    assert body["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"generation_config": {"max_output_tokens": 5}}, {"generationConfig": {"maxOutputTokens": 5}}),
        ({"generationConfig": {"top_k": 64.0}}, {"generationConfig": {"topK": 64}}),
        ({"generationConfig": {"maxOutputTokens": "256"}}, {"generationConfig": {"maxOutputTokens": 256}}),
        ({"generationConfig": {"temperature": "0.5"}}, {"generationConfig": {"temperature": 0.5}}),
        (
            {"generationConfig": {"thinkingConfig": {"include_thoughts": True, "thinking_level": "low"}}},
            {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}},
        ),
        (
            {"generationConfig": {"response_json_schema": {"some_key": None}}},
            {"generationConfig": {"responseJsonSchema": {"some_key": None}}},
        ),
        (
            {"generationConfig": {"_responseJsonSchema": {"type": "OBJECT"}}},
            {"generationConfig": {"responseJsonSchema": {"type": "OBJECT"}}},
        ),
        (
            {"toolConfig": {"function_calling_config": {"mode": "none"}}},
            {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
        ),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": 2}}},
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
        ),
        ({"temperature": None, "tools": None}, {}),
        ({"generationConfig": {"topK": 1, "top_k": 2}}, {"generationConfig": {"topK": 1}}),
        ({"generationConfig": {"top_k": 2, "topK": 1}}, {"generationConfig": {"topK": 1}}),
        ({"generationConfig": {"topK": None, "top_k": 2}}, {"generationConfig": {"topK": 2}}),
        (
            {"generationConfig": {"responseSchema": {"type": "array", "min_items": "2", "items": {"type": 1}}}},
            {"generationConfig": {"responseSchema": {"type": "ARRAY", "minItems": 2, "items": {"type": "STRING"}}}},
        ),
        (
            {"generationConfig": {"responseSchema": {"type": ["string", "null"]}}},
            {"generationConfig": {"responseSchema": {"type": "STRING", "nullable": True}}},
        ),
        (
            {"systemInstruction": {"role": "system", "parts": {"text": "x"}}},
            {"systemInstruction": {"role": "user", "parts": [{"text": "x"}]}},
        ),
    ],
)
def test_fields_are_read_in_one_spelling(given: Json, expected: Json) -> None:
    assert normalised(**given) == {"contents": HI, **expected}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functionCall", {"name": "f", "args": {"snake_key": {"inner_key": None, "mime_type": 1}}}),
        ("functionResponse", {"name": "f", "response": {"snake_key": [None, {"display_name": 2}]}}),
    ],
)
def test_what_is_the_users_own_is_never_renamed(field: str, value: Json) -> None:
    body = wire.normalise({"contents": [{"role": "user", "parts": [{field: value}]}]})
    assert body["contents"][0]["parts"] == [{field: value}]


def test_property_names_are_the_users_own() -> None:
    schema = {
        "type": "OBJECT",
        "properties": {"snake_name": {"type": "STRING"}, "any_of": {"any_of": [{"type": "NULL"}]}},
    }
    tools = [{"functionDeclarations": [{"name": "f", "parameters": schema}]}]
    properties = normalised(tools=tools)["tools"][0]["functionDeclarations"][0]["parameters"]["properties"]
    assert properties == {"snake_name": {"type": "STRING"}, "any_of": {"anyOf": [{"type": "NULL"}]}}


@pytest.mark.parametrize(
    ("role", "expected"), [("user", "user"), ("MODEL", "model"), ("function", "user"), (None, "user")]
)
def test_roles_are_user_and_model(role: str | None, expected: str) -> None:
    body = wire.normalise({"contents": [{"role": role, "parts": [{"text": "x"}]}]})
    assert body["contents"][0]["role"] == expected


def test_a_part_with_nothing_but_a_signature_is_empty_text() -> None:
    body = wire.normalise({"contents": [{"role": "model", "parts": [{"thought_signature": "AQID"}]}]})
    assert body["contents"][0]["parts"] == [{"thoughtSignature": "AQID", "text": ""}]


@pytest.mark.parametrize("word", ["skip_thought_signature_validator", "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="])
def test_the_documented_dummies_stay_what_they_are(word: str) -> None:
    body = wire.normalise({"contents": [{"role": "model", "parts": [{"text": "x", "thoughtSignature": word}]}]})
    assert body["contents"][0]["parts"][0]["thoughtSignature"] == word


def test_a_signature_that_is_no_base64_is_no_signature() -> None:
    body = wire.normalise(
        {"contents": [{"role": "model", "parts": [{"text": "x", "thoughtSignature": "not base64!"}]}]}
    )
    assert body["contents"][0]["parts"] == [{"text": "x"}]


@given(st.binary(max_size=40), st.booleans(), st.booleans())
def test_bytes_come_in_every_alphabet_and_leave_as_standard_padded_base64(
    data: bytes, url_safe: bool, padded: bool
) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    body = wire.normalise({"contents": [{"parts": [{"inlineData": {"mime_type": "image/png", "data": text}}]}]})
    assert body["contents"][0]["parts"][0]["inlineData"]["data"] == base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"contents": []}, "contents", "contents is not specified"),
        ({}, "contents", "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts", "must not be empty"),
        ({"contents": [{"role": "user", "parts": [{}]}]}, "contents[0].parts[0].data", "required oneof field 'data'"),
        (
            {"contents": [{"role": "system", "parts": [{"text": "x"}]}]},
            "contents[0].role",
            "Please use a valid role: user, model.",
        ),
        ({"contents": "hi"}, "contents", "Invalid value at 'contents' (type.googleapis.com"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "contents[0].parts[0].text", "(TYPE_STRING), 5"),
        ({"contents": [["x", True]]}, "contents[0]", '["x",true]'),
        (
            {"contents": [{"parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "!!"}}]}]},
            "contents[0].parts[1].inline_data.data",
            "Invalid value at 'contents[0].parts[1].inline_data.data' (TYPE_BYTES), Base64 decoding failed for \"!!\"",
        ),
        (
            {"contents": [{"parts": [{"text": "a", "inlineData": {"mimeType": "a/b", "data": ""}}]}]},
            "contents[0].parts[0]",
            "oneof field 'data' is already set",
        ),
        (
            {"contents": [{"parts": [{"functionCall": {"args": {}}}]}]},
            "contents[0].parts[0].function_call.name",
            "Name cannot be empty",
        ),
    ],
)
def test_contents_that_hold_nothing_usable_are_refused_with_their_path(body: Json, field: str, message: str) -> None:
    error = refused(body)
    assert error.field == field
    assert message in str(error)
    assert error.body()["error"]["details"][0]["fieldViolations"][0]["field"] == field


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"topK": 5.5}, "generation_config.top_k"),
        ({"topK": "many"}, "generation_config.top_k"),
        ({"maxOutputTokens": 2**40}, "generation_config.max_output_tokens"),
        ({"maxOutputTokens": 0}, "generation_config.max_output_tokens"),
        ({"temperature": "NaN"}, "generation_config.temperature"),
        ({"temperature": "Infinity"}, "generation_config.temperature"),
        ({"temperature": 2.5}, "generation_config.temperature"),
        ({"candidateCount": 9}, "generation_config.candidate_count"),
        ({"thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}}, "generation_config.thinking_config"),
        ({"thinkingConfig": {"thinkingLevel": "EXTREME"}}, "generation_config.thinking_config.thinking_level"),
        ({"logprobs": 3}, "generation_config.logprobs"),
        ({"responseSchema": {"type": "OBJECT"}, "responseJsonSchema": {}}, "generation_config.response_json_schema"),
        ({"responseMimeType": "image/png"}, "generation_config.response_mime_type"),
        ({"stopSequences": ["x"] * 6}, "generation_config.stop_sequences"),
        ({"stopSequences": ["x" * 1001]}, "generation_config.stop_sequences"),
        ({"responseSchema": {"type": "TUPLE"}}, "generation_config.response_schema.type"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_their_path(config: Json, field: str) -> None:
    assert refused({"contents": HI, "generationConfig": config}).field == field


@pytest.mark.parametrize(
    ("calling", "message"),
    [
        (
            {"mode": "AUTO", "allowedFunctionNames": ["f"]},
            "only be set when the function calling mode is ANY or VALIDATED",
        ),
        ({"allowedFunctionNames": ["f"]}, "only be set when the function calling mode is ANY or VALIDATED"),
        ({"mode": "ANY", "allowedFunctionNames": ["g"]}, "'g' is not among the function declarations"),
    ],
)
def test_allowed_names_must_be_declared_and_forced(calling: Json, message: str) -> None:
    tools = [{"functionDeclarations": [{"name": "f"}]}]
    body = {"contents": HI, "tools": tools, "toolConfig": {"functionCallingConfig": calling}}
    assert message in str(refused(body))


@pytest.mark.parametrize(
    ("declarations", "message"),
    [
        ([{"name": "9lives"}], "Invalid function name"),
        ([{}], "Invalid function name"),
        ([{"name": "f"}, {"name": "f"}], "Duplicate function declaration found: f"),
        ([{"name": "f", "parameters": {"type": "OBJECT"}, "parametersJsonSchema": {}}], "only one of parameters"),
    ],
)
def test_declarations_that_contradict_themselves_are_refused(declarations: list[Json], message: str) -> None:
    assert message in str(refused({"contents": HI, "tools": [{"functionDeclarations": declarations}]}))


def test_unknown_fields_are_carried_and_named() -> None:
    body = normalised(fooBar=1, generationConfig={"topQ": 2, "thinkingConfig": {"speed": 3}}, _secret=4)
    assert body["fooBar"] == 1
    assert body["generationConfig"]["topQ"] == 2
    assert body["_unknown"] == ["fooBar", "generationConfig.topQ", "generationConfig.thinkingConfig.speed"]
    assert "_secret" not in body


@pytest.mark.parametrize(
    "body",
    [
        {"contents": HI},
        {"generateContentRequest": {"model": "models/x", "contents": HI}},
        {"generate_content_request": {"contents": HI}},
    ],
)
def test_tokens_can_be_counted_in_every_form(body: Json) -> None:
    assert wire.normalise_count(body)["contents"] == HI


def test_vertex_counts_its_fields_side_by_side() -> None:
    body = wire.normalise_count({"contents": HI, "system_instruction": {"parts": {"text": "x"}}})
    assert body["systemInstruction"]["parts"] == [{"text": "x"}]


def test_counting_two_requests_at_once_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        wire.normalise_count({"contents": HI, "generateContentRequest": {"contents": HI}})


def test_embeddings_are_asked_for_one_by_one_or_in_a_batch() -> None:
    one = {"content": {"parts": {"text": "a"}}, "output_dimensionality": "3", "taskType": "retrieval_query"}
    expected = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 3, "taskType": "RETRIEVAL_QUERY"}
    assert wire.normalise_embed(one) == [expected]
    assert wire.normalise_embed({"requests": one}, batch=True) == [expected]


@pytest.mark.parametrize(
    "body",
    [
        {"requests": []},
        {"requests": [{"content": {"parts": []}}]},
        {
            "requests": [
                {"model": "models/a", "content": {"parts": [{"text": "x"}]}},
                {"model": "b", "content": {"parts": [{"text": "x"}]}},
            ]
        },
    ],
)
def test_a_batch_without_texts_or_with_two_models_is_refused(body: Json) -> None:
    with pytest.raises(InvalidArgument):
        wire.normalise_embed(body, batch=True)


# Whole numbers of more than 64 bits are floats when they have been read.
WHOLE = st.integers(-(2**63), 2**64 - 1)
LEAVES = st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False) | st.text(max_size=5)
NAMES = [
    "contents",
    "role",
    "parts",
    "text",
    "inlineData",
    "generation_config",
    "topK",
    "tools",
    "functionDeclarations",
]
FIELDS = st.sampled_from([*NAMES, "name", "unheard_of"])
BODIES = st.dictionaries(
    FIELDS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=3), max_leaves=6
    ),
    max_size=3,
)
# How long a machine takes to make examples says nothing about the code under test.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@UNHURRIED
@given(BODIES)
def test_whatever_a_stranger_sends_is_read_or_refused_and_never_changed(body: Json) -> None:
    before = copy.deepcopy(body)
    try:
        out = wire.normalise(body)
    except InvalidArgument as error:
        assert str(error)
    else:
        json.dumps(out)
        assert all(content["role"] in ("user", "model") for content in out["contents"])
    assert body == before


def test_vertex_texts_to_predict_are_requests_to_embed() -> None:
    body = {
        "instances": [{"content": "a", "task_type": "CLUSTERING", "title": "t"}, {"content": "b"}],
        "parameters": {"outputDimensionality": "8", "autoTruncate": True},
    }
    common = {"outputDimensionality": 8, "autoTruncate": True}
    assert wire.normalise_predict(body) == [
        {"content": {"parts": [{"text": "a"}]}, "taskType": "CLUSTERING", "title": "t", **common},
        {"content": {"parts": [{"text": "b"}]}, **common},
    ]


@pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": [{}]}, {"instances": [{"content": 5}]}])
def test_nothing_to_predict_is_refused(body: Json) -> None:
    with pytest.raises(InvalidArgument):
        wire.normalise_predict(body)
