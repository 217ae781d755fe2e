"""Chat Completions: what a model or a server can do decides what is said; odd servers are understood."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemini_api import wire
from gemini_api.errors import InvalidArgument
from gemini_api.translators import capabilities, chat_completions
from gemini_api.translators import usage as counts
from gemini_api.translators.base import Letter, Memo, Target
from routing.errors import UpstreamError
from routing.framing import Frame

Json = dict[str, Any]
HI = [{"role": "user", "parts": [{"text": "hi"}]}]


def written(
    model: str, *, options: Json | None = None, strict: bool = False, stream: bool = False, **fields: Any
) -> Letter:
    target = Target(model=model, capabilities=options or {}, strict=strict, stream=stream)
    return chat_completions.request(wire.normalise({"contents": HI, **fields}), target)


def payload(model: str, **fields: Any) -> Json:
    found = written(model, **fields).payload
    assert isinstance(found, dict)
    return found


def tools(*names: str) -> list[Json]:
    return [{"functionDeclarations": [{"name": name} for name in names]}]


def calling(mode: str, *names: str) -> Json:
    return {"functionCallingConfig": {"mode": mode, **({"allowedFunctionNames": list(names)} if names else {})}}


@pytest.mark.parametrize(
    ("model", "thinking", "effort", "dropped"),
    [
        ("gpt-4o", {"thinkingBudget": 2000}, None, ("generationConfig.thinkingConfig",)),
        ("gpt-4o", {"thinkingBudget": 0}, None, ()),
        ("gpt-4o", {"thinkingBudget": -1}, None, ()),
        ("o3", {"thinkingBudget": 0}, "low", ("generationConfig.thinkingConfig.thinkingBudget",)),
        ("o3", {"thinkingLevel": "XHIGH"}, "high", ()),
        ("gpt-5", {"thinkingBudget": 200}, "minimal", ()),
        ("gpt-5.1", {"thinkingBudget": 200}, "low", ()),
        ("gpt-5.6-sol", {"thinkingBudget": 0}, "none", ()),
        ("gpt-5.6-sol", {"thinkingBudget": 30000}, "xhigh", ()),
        ("gpt-5.6-sol", {"thinkingLevel": "MEDIUM"}, "medium", ()),
        ("gpt-5.6-sol", {}, None, ()),
    ],
)
def test_efforts_fit_the_model(model: str, thinking: Json, effort: str | None, dropped: tuple[str, ...]) -> None:
    letter = written(model, generationConfig={"thinkingConfig": thinking})
    assert isinstance(letter.payload, dict)
    assert letter.payload.get("reasoning_effort") == effort
    assert letter.dropped == dropped


@pytest.mark.parametrize(
    ("model", "thinking", "effort", "dropped"),
    [
        ("gpt-5", {"thinkingLevel": "HIGH"}, "high", ()),
        ("gpt-5.4", {}, None, ()),
        ("gpt-5.4", {"thinkingLevel": "HIGH"}, "none", ("generationConfig.thinkingConfig",)),
        ("gpt-5.6-sol", {}, "none", ()),
    ],
)
def test_tools_switch_thinking_off_where_chat_refuses_both(
    model: str, thinking: Json, effort: str | None, dropped: tuple[str, ...]
) -> None:
    letter = written(model, tools=tools("f"), generationConfig={"thinkingConfig": thinking})
    assert isinstance(letter.payload, dict)
    assert letter.payload.get("reasoning_effort") == effort
    assert letter.dropped == dropped


@pytest.mark.parametrize(("model", "fields"), [("gpt-5.2-pro", {}), ("gpt-6.2-sol", {"tools": tools("f")})])
def test_what_only_responses_serves_is_refused(model: str, fields: Json) -> None:
    with pytest.raises(InvalidArgument, match="OpenAI Responses"):
        written(model, **fields)
    assert written("gpt-6.2-sol")


@pytest.mark.parametrize(
    ("model", "config", "sent", "dropped"),
    [
        ("gpt-4o", {"temperature": 1.5, "topP": 0.5}, {"temperature": 1.5, "top_p": 0.5}, ()),
        ("o3", {"temperature": 0.5, "topP": 0.5}, {}, ("generationConfig.temperature", "generationConfig.topP")),
        ("o3", {"temperature": 1, "topP": 1, "presencePenalty": 0}, {}, ()),
        ("gpt-5.1", {"temperature": 0.5}, {"temperature": 0.5}, ()),
        ("gpt-5.5", {"temperature": 0.5}, {}, ("generationConfig.temperature",)),
        (
            "gpt-5.5",
            {"temperature": 0.5, "thinkingConfig": {"thinkingBudget": 0}},
            {"reasoning_effort": "none", "temperature": 0.5},
            (),
        ),
        (
            "gpt-4o",
            {"presencePenalty": 1, "frequencyPenalty": -1},
            {"presence_penalty": 1, "frequency_penalty": -1},
            (),
        ),
        ("gpt-5", {"presencePenalty": 1}, {}, ("generationConfig.presencePenalty",)),
        ("gpt-4o", {"topK": 3}, {}, ("generationConfig.topK",)),
        ("gpt-4o", {"responseLogprobs": True, "logprobs": 2}, {"logprobs": True, "top_logprobs": 2}, ()),
        ("gpt-4o", {"stopSequences": ["a"]}, {"stop": ["a"]}, ()),
        ("gpt-5", {"stopSequences": ["a"]}, {}, ()),
        ("gpt-4o", {"audioTimestamp": True, "speechConfig": {}}, {}, ("generationConfig.audioTimestamp",)),
    ],
)
def test_knobs_are_turned_where_the_model_has_them(
    model: str, config: Json, sent: Json, dropped: tuple[str, ...]
) -> None:
    letter = written(model, generationConfig=config)
    assert isinstance(letter.payload, dict)
    assert {name: value for name, value in letter.payload.items() if name not in ("model", "messages")} == sent
    assert letter.dropped == dropped


def test_stop_sequences_that_cannot_be_sent_are_looked_for_here() -> None:
    assert written("gpt-5", generationConfig={"stopSequences": ["a"]}).memo.stops == ("a",)
    assert written("gpt-4o", generationConfig={"stopSequences": ["a"]}).memo.stops == ()


@pytest.mark.parametrize(
    ("model", "config", "field"),
    [
        ("gpt-5", {"responseLogprobs": True}, "generationConfig.responseLogprobs"),
        ("gpt-4o", {"responseModalities": ["IMAGE"]}, "generationConfig.responseModalities"),
        ("gpt-4o", {"responseFormat": []}, "generationConfig.responseFormat"),
    ],
)
def test_what_would_change_the_answer_is_refused(model: str, config: Json, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        written(model, generationConfig=config)
    assert refused.value.field == field


@pytest.mark.parametrize("fields", [{"cachedContent": "cachedContents/1"}, {"continuationToken": "AQID"}])
def test_what_only_gemini_can_go_on_with_is_refused(fields: Json) -> None:
    with pytest.raises(InvalidArgument):
        written("gpt-4o", **fields)


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        (
            {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}]},
            ("safetySettings",),
        ),
        ({"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]}, ()),
        ({"labels": {"a": "b"}, "store": False, "serviceTier": "flex"}, ()),
        ({"fooBar": 1}, ("fooBar",)),
        ({"toolConfig": {"retrievalConfig": {}}}, ("toolConfig.retrievalConfig",)),
    ],
)
def test_losses_are_declared_and_bookkeeping_is_not(fields: Json, dropped: tuple[str, ...]) -> None:
    assert written("gpt-4o", **fields).dropped == dropped
    if dropped:
        with pytest.raises(InvalidArgument) as refused:
            written("gpt-4o", strict=True, **fields)
        assert refused.value.field == dropped[0]


@pytest.mark.parametrize(
    ("config", "options", "choice", "offered"),
    [
        (calling("AUTO"), {}, None, "fgh"),
        (calling("NONE"), {}, "none", "fgh"),
        (calling("ANY"), {}, "required", "fgh"),
        (calling("ANY", "g"), {}, {"type": "function", "function": {"name": "g"}}, "fgh"),
        (calling("ANY", "f", "g"), {"allowed_tools": False}, "required", "fg"),
        (calling("VALIDATED"), {}, None, "fgh"),
        (
            calling("VALIDATED", "f"),
            {},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
            "fgh",
        ),
        (calling("VALIDATED", "f"), {"allowed_tools": False}, None, "f"),
        (calling("ANY", "g"), {"tool_choice_required": False}, None, "g"),
        (calling("ANY"), {"tool_choice_required": False}, None, "fgh"),
    ],
)
def test_the_choice_of_functions_is_as_free_as_it_was_asked_to_be(
    config: Json, options: Json, choice: Any, offered: str
) -> None:
    found = payload("gpt-4o", tools=tools("f", "g", "h"), toolConfig=config, options=options)
    assert found.get("tool_choice") == choice
    assert "".join(each["function"]["name"] for each in found["tools"]) == offered


def test_a_server_without_tools_is_not_sent_any() -> None:
    with pytest.raises(InvalidArgument, match="tools"):
        written("llama-3", options={"tools": False}, tools=tools("f"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"system_role": "developer"},
            {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "hi"}]},
        ),
        ({"max_tokens_field": "max_tokens"}, {"max_tokens": 5}),
        ({"effort_field": ""}, {}),
        ({"top_k": True}, {"top_k": 4}),
    ],
)
def test_servers_that_imitate_openai_are_spoken_to_as_they_like_it(options: Json, expected: Json) -> None:
    found = payload(
        "o3-like",
        options=options,
        systemInstruction={"parts": [{"text": "s"}]},
        generationConfig={"maxOutputTokens": 5, "topK": 4},
    )
    assert expected.items() <= found.items()
    assert "reasoning_effort" not in found


@pytest.mark.parametrize(("known", "expected"), [(True, {"include_usage": True}), (False, None)])
def test_stream_options_are_sent_to_who_knows_them(known: bool, expected: Json | None) -> None:
    found = payload("gpt-4o", stream=True, options={"stream_options": known})
    assert found["stream"] is True
    assert found.get("stream_options") == expected


def test_a_server_without_schemas_is_asked_in_words() -> None:
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "ARRAY", "items": {"type": "INTEGER"}}}
    letter = written("llama-3", options={"json_schema": False, "json_object": False}, generationConfig=config)
    assert isinstance(letter.payload, dict)
    assert "response_format" not in letter.payload
    assert '{"type":"array","items":{"type":"integer"}}' in letter.payload["messages"][0]["content"]
    assert letter.dropped == ("generationConfig.responseSchema",)
    assert letter.memo.json_fallback
    fenced = {"choices": [{"index": 0, "message": {"content": "```json\n[1]\n```"}, "finish_reason": "stop"}]}
    assert chat_completions.response(fenced, letter.memo)["candidates"][0]["content"]["parts"] == [{"text": "[1]"}]


def test_a_server_of_strings_hears_strings_and_no_pictures() -> None:
    two = [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}]
    assert payload("llama-3", options={"string_content": True}, contents=two)["messages"] == [
        {"role": "user", "content": "a\n\nb"}
    ]
    picture = [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}]
    with pytest.raises(InvalidArgument, match="only takes text"):
        written("llama-3", options={"string_content": True}, contents=picture)


def test_files_of_a_result_follow_in_the_users_message() -> None:
    result = {
        "name": "f",
        "response": {"output": "ok"},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}],
    }
    contents = [
        *HI,
        {"role": "model", "parts": [{"functionCall": {"name": "f"}}]},
        {"role": "user", "parts": [{"functionResponse": result}]},
    ]
    letter = written("gpt-4o", contents=contents)
    assert isinstance(letter.payload, dict)
    tool, user = letter.payload["messages"][-2:]
    assert (tool["role"], tool["content"]) == ("tool", "ok")
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    assert letter.dropped == ("contents.parts.functionResponse.parts",)


def test_mistrals_ids_have_nine_letters() -> None:
    contents = [
        *HI,
        {"role": "model", "parts": [{"functionCall": {"id": "call_1", "name": "f"}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "call_1", "name": "f", "response": {}}}]},
    ]
    messages = payload("mistral-large", contents=contents)["messages"]
    assert len(messages[1]["tool_calls"][0]["id"]) == 9
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]


def test_a_prefill_is_a_loss() -> None:
    letter = written("gpt-4o", contents=[*HI, {"role": "model", "parts": [{"text": "Sure:"}]}])
    assert letter.dropped == ("contents",)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"inlineData": {"mimeType": "image/heic", "data": "AAAA"}}, "contents[0].parts[0].inlineData.mimeType"),
        ({"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}, "contents[0].parts[0].inlineData.mimeType"),
        ({"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}, "contents[0].parts[0].inlineData"),
        ({"fileData": {"fileUri": "https://example.com/a.pdf"}}, "contents[0].parts[0].fileData.fileUri"),
        ({"fileData": {"fileUri": "s3://b/a.png"}}, "contents[0].parts[0].fileData.fileUri"),
        (
            {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}},
            "contents[0].parts[0].fileData.fileUri",
        ),
        ({"fileData": {"fileUri": "https://youtu.be/x"}}, "contents[0].parts[0].fileData.fileUri"),
        ({"fileData": {"fileUri": "file:///etc/passwd"}}, "contents[0].parts[0].fileData.fileUri"),
        ({"inlineData": {"mimeType": "text/plain", "data": "//79"}}, "contents[0].parts[0].inlineData"),
    ],
)
def test_files_this_vendor_cannot_take_are_refused(part: Json, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        written("gpt-4o", contents=[{"role": "user", "parts": [part]}])
    assert refused.value.field == field


def test_audio_goes_to_models_that_hear() -> None:
    contents = [{"role": "user", "parts": [{"inlineData": {"mimeType": "audio/mpeg", "data": "AAAA"}}]}]
    message = payload("gpt-4o-audio-preview", contents=contents)["messages"][0]
    assert message["content"] == [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}]


def test_documents_are_refused_where_the_deployment_says_so() -> None:
    contents = [{"role": "user", "parts": [{"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}]}]
    assert payload("gpt-4o", contents=contents)["messages"][0]["content"][0]["type"] == "file"
    with pytest.raises(InvalidArgument, match="no documents"):
        written("gpt-4o", options={"file_parts": False}, contents=contents)


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("gpt-5", "gpt-5"),
        ("openai/gpt-5-2025", "gpt-5"),
        ("ft:gpt-4o:acme::1", "gpt-4o"),
        ("GPT-5.2-Pro", "gpt-5.2-pro"),
        ("o3-mini", "o3"),
    ],
)
def test_the_longest_prefix_of_the_bare_name_decides(model: str, row: str) -> None:
    assert capabilities.shipped("openai", model) == {**capabilities.OPENAI_DEFAULT, **capabilities.OPENAI[row]}


def test_a_deployment_overrides_the_table() -> None:
    target = Target(model="prod", base_model="o3", capabilities={"sampling": "yes"})
    assert capabilities.of("openai", target)["sampling"] == "yes"
    assert capabilities.of("openai", target)["efforts"] == ("low", "medium", "high")


# --- Streams of odd servers -------------------------------------------------------------------------------------------


def streamed(*deltas: Any, finish: str | None = "stop", done: bool = True) -> list[Json]:
    stream = chat_completions.Stream(Memo(thoughts=True))
    chunks: list[Json] = []
    for delta in deltas:
        chunk = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta}]}
        chunks += stream.feed(Frame(json.dumps(chunk).encode()))
    if finish:
        chunks += stream.feed(
            Frame(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}).encode())
        )
    if done:
        chunks += stream.feed(Frame(b"[DONE]"))
    return chunks + stream.finish()


def calls(chunks: list[Json]) -> list[tuple[str, Json]]:
    parts = chunks[-1]["candidates"][0]["content"]["parts"]
    return [(part["functionCall"]["name"], part["functionCall"]["args"]) for part in parts if "functionCall" in part]


def piece(index: int | None = 0, id: str | None = None, name: str | None = None, arguments: Any = None) -> Json:
    found: Json = {"function": {}}
    if index is not None:
        found["index"] = index
    if id is not None:
        found["id"] = id
    if name is not None:
        found["function"]["name"] = name
    if arguments is not None:
        found["function"]["arguments"] = arguments
    return {"tool_calls": [found]}


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        # one call in pieces, the name repeated with each
        ([piece(0, "a", "f", ""), piece(0, None, "f", '{"x"'), piece(0, None, "f", ":1}")], [("f", {"x": 1})]),
        # a name in pieces, before any arguments
        ([piece(0, "a", "get_"), piece(0, None, "weather"), piece(0, None, None, "{}")], [("get_weather", {})]),
        # every call counted as 0, told apart by id
        ([piece(0, "a", "f", '{"x":1}'), piece(0, "b", "f", '{"x":2}')], [("f", {"x": 1}), ("f", {"x": 2})]),
        # no index, no ids, whole calls
        ([piece(None, "", "f", '{"x":1}'), piece(None, "", "f", '{"x":2}')], [("f", {"x": 1}), ("f", {"x": 2})]),
        # arguments as an object
        ([piece(0, "a", "f", {"x": 1})], [("f", {"x": 1})]),
        # empty arguments first, later the real ones: never decided by "it parses already"
        ([piece(0, "a", "f", "{"), piece(0, None, None, "}")], [("f", {})]),
        # calls interleaved
        (
            [piece(0, "a", "f", '{"a":'), piece(1, "b", "g", "{}"), piece(0, None, None, "1}")],
            [("f", {"a": 1}), ("g", {})],
        ),
    ],
)
def test_calls_are_put_together_from_whatever_pieces(deltas: list[Json], expected: list[tuple[str, Json]]) -> None:
    chunks = streamed(*deltas, finish="tool_calls")
    assert len(chunks) == 1
    assert calls(chunks) == expected


def test_deltas_of_nothing_say_nothing() -> None:
    assert len(streamed({"role": "assistant"}, {"content": ""}, None, {"content": None}, {"tool_calls": None})) == 1


def test_reasoning_has_two_names() -> None:
    chunks = streamed({"reasoning_content": "a"}, {"reasoning": "b"}, {"content": "c"})
    assert [chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks] == ["a", "b", "c", ""]
    assert [chunk["candidates"][0]["content"]["parts"][0].get("thought") for chunk in chunks] == [
        True,
        True,
        None,
        None,
    ]


def test_a_stream_needs_an_end_of_some_kind() -> None:
    assert streamed({"content": "a"}, finish="stop", done=False)
    assert streamed({"content": "a"}, finish=None, done=True)[-1]["candidates"][0]["finishReason"] == "STOP"
    with pytest.raises(UpstreamError) as trouble:
        streamed({"content": "a"}, finish=None, done=False)
    assert trouble.value.kind == "cut"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("stop", "STOP"),
        ("length", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
        ("recitation", "RECITATION"),
        ("eos", "STOP"),
    ],
)
def test_finish_reasons(given: str, expected: str) -> None:
    assert streamed({"content": "a"}, finish=given)[-1]["candidates"][0]["finishReason"] == expected


def test_a_prompt_blocked_inside_the_stream_is_an_answer() -> None:
    stream = chat_completions.Stream(Memo(model="m"))
    chunks = stream.feed(Frame(b'{"error":{"code":"content_filter","message":"x"}}'))
    assert chunks == [{"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "m"}]
    assert stream.ended
    assert stream.finish() == []


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}}, (5, 5, 4)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 4}}, (5, 3, 4)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 12}, (5, 3, 4)),
        ({"prompt_tokens": "5", "completion_tokens": "3"}, (5, 3, 0)),
    ],
)
def test_usage_counts_thoughts_apart(usage: Json, expected: tuple[int, int, int]) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}
    found = chat_completions.response(answer, Memo())["usageMetadata"]
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    assert tuple(found.get(name, 0) for name in names) == expected
    assert found["totalTokenCount"] == sum(expected)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": None, "completion_tokens": "x", "prompt_tokens_details": None},
    ],
)
def test_usage_that_says_nothing_is_none(usage: Json) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": usage}
    found = chat_completions.response(answer, Memo(prompt_tokens=7))["usageMetadata"]
    assert (found["promptTokenCount"], found["candidatesTokenCount"], found["_estimated"]) == (7, 2, True)


@pytest.mark.parametrize(
    "where", [{"prompt_tokens_details": {"cached_tokens": 3}}, {"prompt_cache_hit_tokens": 3}, {"cached_tokens": 3}]
)
def test_what_the_cache_gave_is_found_where_each_server_says_it(where: Json) -> None:
    found = counts.openai({"prompt_tokens": 5, "completion_tokens": 1, **where})
    assert (found["promptTokenCount"], found["cachedContentTokenCount"]) == (5, 3)


# --- Embeddings -------------------------------------------------------------------------------------------------------


def test_embeddings_come_back_in_the_order_they_were_asked_for() -> None:
    requests = wire.normalise_embed(
        {
            "requests": [
                {"content": {"parts": [{"text": each}]}, "taskType": "CLUSTERING", "outputDimensionality": 2}
                for each in "ab"
            ]
        },
        batch=True,
    )
    letter = chat_completions.embed_request(requests, Target(model="text-embedding-3-small"))
    assert letter.payload == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 2,
    }
    assert letter.dropped == ("taskType",)
    answer = {
        "data": [{"index": 1, "embedding": [3.0]}, {"index": 0, "embedding": [1.0]}],
        "usage": {"prompt_tokens": 2},
    }
    assert chat_completions.embed_response(answer, letter.memo) == [[1.0], [3.0]]
    assert chat_completions.embed_usage(answer)["promptTokenCount"] == 2
    with pytest.raises(UpstreamError):
        chat_completions.embed_response({"data": [{"index": 0}]}, letter.memo)


def test_only_text_is_embedded() -> None:
    requests = wire.normalise_embed({"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}})
    with pytest.raises(InvalidArgument, match="Only text"):
        chat_completions.embed_request(requests, Target(model="m"))
