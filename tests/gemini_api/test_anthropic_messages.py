"""Anthropic Messages: what depends on the model and on who hosts it, thinking that comes back, and what can go wrong."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gemini_api import signatures
from gemini_api.errors import InvalidArgument
from gemini_api.translators import TRANSLATORS, anthropic_messages
from gemini_api.translators.base import Memo, Target
from routing.errors import UpstreamError
from routing.framing import Frame
from tests.gemini_api.languages import (
    Json,
    again,
    asked,
    calling,
    events,
    functions,
    heard,
    letter,
    memo,
    parts,
    refused,
)

LANGUAGE = "anthropic_messages"
CONFIG = "generationConfig."
THINKING = CONFIG + "thinkingConfig"


def start(index: int, block: Json) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **said: Any) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": said}


def stop(index: int) -> Json:
    return {"type": "content_block_stop", "index": index}


def text(said: str, index: int = 0) -> list[Json]:
    return [start(index, {"type": "text", "text": ""}), delta(index, type="text_delta", text=said), stop(index)]


def end(why: str = "end_turn", **usage: int) -> list[Json]:
    return [
        {"type": "message_delta", "delta": {"stop_reason": why}, "usage": usage or {"output_tokens": 9}},
        {"type": "message_stop"},
    ]


BEGIN = {
    "type": "message_start",
    "message": {"id": "msg", "model": "claude", "usage": {"input_tokens": 5, "output_tokens": 1}},
}


# ── thinking, by model ──


@pytest.mark.parametrize(
    ("model", "config", "thinking", "effort", "dropped"),
    [
        ("claude-3-5-sonnet", {"thinkingLevel": "HIGH"}, None, None, [THINKING]),
        ("claude-3-5-sonnet", {"thinkingBudget": 0}, None, None, []),
        ("claude-sonnet-4-5", {"thinkingBudget": 0}, None, None, []),
        ("claude-sonnet-4-5", {"thinkingBudget": -1}, None, None, []),
        ("claude-sonnet-4-5", {"thinkingBudget": 100}, {"type": "enabled", "budget_tokens": 1024}, None, []),
        ("claude-sonnet-4-5", {"thinkingBudget": 8000}, {"type": "enabled", "budget_tokens": 8000}, None, []),
        ("claude-sonnet-4-5", {"thinkingLevel": "HIGH"}, {"type": "enabled", "budget_tokens": 16384}, None, []),
        ("claude-opus-4-5@20251101", {"thinkingLevel": "LOW"}, {"type": "enabled", "budget_tokens": 2048}, None, []),
        ("claude-sonnet-4-6", {"thinkingLevel": "HIGH"}, {"type": "adaptive", "display": "omitted"}, "high", []),
        ("claude-sonnet-4-6", {"thinkingBudget": -1}, {"type": "adaptive", "display": "omitted"}, None, []),
        ("claude-sonnet-4-6", {"thinkingBudget": 0}, None, None, []),
        ("claude-opus-4-7", {"thinkingLevel": "XHIGH"}, {"type": "adaptive", "display": "omitted"}, "xhigh", []),
        ("claude-opus-4-6", {"thinkingLevel": "XHIGH"}, {"type": "adaptive", "display": "omitted"}, "high", []),
        ("claude-opus-5", {"thinkingLevel": "MINIMAL"}, {"type": "adaptive", "display": "omitted"}, "low", []),
        ("claude-opus-5", {"thinkingBudget": 0}, {"type": "disabled"}, None, []),
        ("claude-opus-5", {"includeThoughts": True}, {"type": "adaptive", "display": "summarized"}, None, []),
        ("claude-opus-5", None, None, None, []),
        ("claude-opus-5-5", {"thinkingBudget": 0}, {"type": "adaptive", "display": "omitted"}, "low", [THINKING]),
        ("claude-sonnet-5-5", {"thinkingBudget": 0}, {"type": "between_tools"}, None, []),
        (
            "us.anthropic.claude-opus-4-7-v1:0",
            {"thinkingLevel": "LOW"},
            {"type": "adaptive", "display": "omitted"},
            "low",
            [],
        ),
    ],
)
def test_thinking_is_asked_for_as_the_model_knows_it(
    model: str, config: Json | None, thinking: Json | None, effort: str | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig={"thinkingConfig": config} if config else {}))
    assert written.payload.get("thinking") == thinking
    assert written.payload.get("output_config", {}).get("effort") == effort
    assert list(written.dropped) == dropped


@pytest.mark.parametrize(
    "more",
    [
        {"generationConfig": {"maxOutputTokens": 1024, "thinkingConfig": {"thinkingBudget": 2000}}},
        {"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}},
         "tools": functions("f"), "toolConfig": calling("ANY")},
    ],
    ids=["no room", "forced function"],
)  # fmt: skip
def test_a_budget_gives_way_to_what_it_does_not_go_with(more: Json) -> None:
    written = letter(LANGUAGE, "claude-sonnet-4-5", asked(**more))
    assert "thinking" not in written.payload
    assert written.dropped == (THINKING,)


def test_a_budget_is_less_than_the_whole_output() -> None:
    config = {"maxOutputTokens": 4000, "thinkingConfig": {"thinkingBudget": 24000}}
    assert (
        letter(LANGUAGE, "claude-sonnet-4-5", asked(generationConfig=config)).payload["thinking"]["budget_tokens"]
        == 3999
    )


def test_a_tool_loop_that_began_without_thoughts_goes_on_without_them_in_budget_mode() -> None:
    said = [{"functionCall": {"id": "c", "name": "f", "args": {}}}]
    config = {"thinkingConfig": {"thinkingBudget": 2000}}
    written = letter(LANGUAGE, "claude-sonnet-4-5", again(said, functions("f"), generationConfig=config))
    assert "thinking" not in written.payload
    assert written.dropped == (THINKING,)
    adaptive = letter(LANGUAGE, "claude-sonnet-4-6", again(said, functions("f"), generationConfig=config))
    assert adaptive.payload["thinking"]["type"] == "adaptive"
    assert adaptive.dropped == ()


# ── sampling, limits, stop sequences ──


@pytest.mark.parametrize(
    ("model", "config", "sent", "dropped"),
    [
        ("claude-3-haiku", {"temperature": 0.3, "topP": 0.9, "topK": 4}, {"temperature": 0.3, "top_p": 0.9, "top_k": 4}, []),
        ("claude-3-haiku", {"temperature": 1.7}, {"temperature": 1}, ["temperature"]),
        ("claude-sonnet-4-5", {"temperature": 0.3, "topP": 0.9}, {"temperature": 0.3}, ["topP"]),
        ("claude-sonnet-4-5", {"temperature": 1, "topP": 0.95, "topK": 64}, {"top_p": 0.95, "top_k": 64}, []),
        ("claude-opus-4-7", {"temperature": 1, "topP": 0.95, "topK": 64}, {}, ["topP", "topK"]),
        ("claude-opus-5-5", {"temperature": 0, "topP": 1}, {}, ["temperature"]),
        ("claude-3-haiku", {"seed": 1, "presencePenalty": 1, "frequencyPenalty": 1, "mediaResolution": "MEDIA_RESOLUTION_LOW"},
         {}, ["seed", "presencePenalty", "frequencyPenalty", "mediaResolution"]),
    ],
)  # fmt: skip
def test_sampling_follows_the_models_limits(model: str, config: Json, sent: Json, dropped: list[str]) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig=config))
    assert {
        name: written.payload[name] for name in ("temperature", "top_p", "top_k") if name in written.payload
    } == sent
    assert list(written.dropped) == [CONFIG + name for name in dropped]


@pytest.mark.parametrize(
    ("model", "asked_for", "sent"),
    [
        ("claude-sonnet-4-5", None, 64000),
        ("claude-sonnet-4-5", 500, 500),
        ("claude-3-haiku-20240307", 65536, 4096),
        ("a-model-nobody-knows", None, 8192),
        ("a-model-nobody-knows", 65536, 65536),
    ],
)
def test_max_tokens_is_always_said(model: str, asked_for: int | None, sent: int) -> None:
    config = {"maxOutputTokens": asked_for} if asked_for else {}
    assert letter(LANGUAGE, model, asked(generationConfig=config)).payload["max_tokens"] == sent


def test_stop_sequences_of_white_space_are_found_here() -> None:
    words = letter(LANGUAGE, "claude-sonnet-4-5", asked(generationConfig={"stopSequences": ["END", "."]}))
    assert words.payload["stop_sequences"] == ["END", "."]
    assert words.memo.stops == ()
    blank = letter(LANGUAGE, "claude-sonnet-4-5", asked(generationConfig={"stopSequences": ["END", "\n\n"]}))
    assert "stop_sequences" not in blank.payload
    assert blank.memo.stops == ("END", "\n\n")
    stream = TRANSLATORS[LANGUAGE].Stream(blank.memo)
    chunks = [chunk for frame in events(BEGIN, *text("one\n\ntwo")) for chunk in stream.feed(frame)]
    assert stream.ended
    assert parts(chunks[0]) == [{"text": "one"}]
    assert stream.finish()[-1]["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    "config", [{"candidateCount": 2}, {"responseLogprobs": True}, {"responseModalities": ["AUDIO"]}]
)
def test_what_changes_the_answer_is_refused_by_name(config: Json) -> None:
    with pytest.raises(InvalidArgument) as no:
        letter(LANGUAGE, "claude-sonnet-4-5", asked(generationConfig=config))
    assert no.value.field == CONFIG + next(iter(config))


# ── functions ──


@pytest.mark.parametrize(
    ("model", "choice", "names", "sent", "dropped"),
    [
        ("claude-sonnet-4-5", calling("ANY", "f", "g"), ["f", "g"], {"type": "any"}, []),
        ("claude-sonnet-4-5", calling("ANY", "g"), ["f", "g", "h"], {"type": "tool", "name": "g"}, []),
        ("claude-opus-5-5", calling("ANY", "f", "g"), ["f", "g"], None, ["toolConfig.functionCallingConfig.mode"]),
        ("claude-opus-5-5", calling("ANY", "g"), ["g"], None, ["toolConfig.functionCallingConfig.mode"]),
        ("claude-opus-4-7", calling("ANY"), ["f", "g", "h"], {"type": "any"}, []),
        ("claude-sonnet-4-5", calling("VALIDATED", "f"), ["f"], None, []),
        ("claude-sonnet-4-5", calling("NONE"), ["f", "g", "h"], {"type": "none"}, []),
        ("claude-sonnet-4-5", calling("AUTO"), ["f", "g", "h"], None, []),
    ],
)
def test_the_choice_of_functions(
    model: str, choice: Json, names: list[str], sent: Json | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(tools=functions("f", "g", "h"), toolConfig=choice))
    assert [each["name"] for each in written.payload["tools"]] == names
    assert written.payload.get("tool_choice") == sent
    assert list(written.dropped) == dropped


def test_more_functions_than_can_be_strict_are_not() -> None:
    many = functions(*(f"f{number}" for number in range(21)))
    written = letter(LANGUAGE, "claude-sonnet-4-5", asked(tools=many, toolConfig=calling("VALIDATED")))
    assert not any("strict" in each for each in written.payload["tools"])


def test_a_model_without_structured_output_is_told_in_words() -> None:
    config = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}}
    written = letter(LANGUAGE, "claude-3-5-haiku", asked(generationConfig=config))
    assert written.payload["system"][0]["text"].endswith(": a, b")
    assert (written.memo.wrapped, written.memo.json_fallback) == ("", True)
    assert written.dropped == (CONFIG + "responseSchema",)


def test_a_schema_that_does_not_fit_is_told_in_words() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    config = {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"$ref": "#/$defs/Node", "$defs": {"Node": node}},
    }
    written = letter(LANGUAGE, "claude-sonnet-4-5", asked(generationConfig=config))
    assert "output_config" not in written.payload
    assert written.dropped == (CONFIG + "responseJsonSchema",)


# ── turns and media ──


def test_who_hosts_the_model_decides_whether_a_url_can_be_handed_on() -> None:
    body = asked()
    body["contents"][0]["parts"].append({"fileData": {"fileUri": "https://example.com/x.png", "mimeType": "image/png"}})
    source = letter(LANGUAGE, "claude-sonnet-4-5", body).payload["messages"][0]["content"][1]["source"]
    assert source == {"type": "url", "url": "https://example.com/x.png"}
    for options in ({"region": "us-east-1"}, {"publisher": "anthropic"}):
        with pytest.raises(InvalidArgument, match="fileUri"):
            letter(LANGUAGE, "claude-sonnet-4-5", body, options=options)


def test_only_models_that_can_continue_a_turn_are_given_one() -> None:
    body = asked()
    body["contents"].append({"role": "model", "parts": [{"text": "Once upon "}]})
    last = letter(LANGUAGE, "claude-sonnet-4-5", body).payload["messages"][-1]
    assert last == {"role": "assistant", "content": [{"type": "text", "text": "Once upon"}]}
    with pytest.raises(InvalidArgument, match="contents"):
        letter(LANGUAGE, "claude-sonnet-4-6", body)


def test_counting_sends_what_is_read_and_nothing_about_the_answer() -> None:
    config = {"temperature": 0.1, "maxOutputTokens": 9000, "topK": 1, "stopSequences": ["x"],
              "thinkingConfig": {"thinkingBudget": 2000}}  # fmt: skip
    body = asked(tools=functions("f"), systemInstruction={"parts": [{"text": "Be."}]}, generationConfig=config)
    written = anthropic_messages.count_request(body, Target("claude-sonnet-4-5", strict=True))
    assert set(written.payload) == {"model", "messages", "system", "tools", "thinking"}
    assert anthropic_messages.count_response({"input_tokens": 31}) == 31


# ── thinking comes back ──


def thought(index: int, said: str, signature: str = "EqQB") -> list[Json]:
    signing = [delta(index, type="signature_delta", signature=signature)] if signature else []
    opened = start(index, {"type": "thinking", "thinking": "", "signature": ""})
    return [opened, delta(index, type="thinking_delta", thinking=said), *signing, stop(index)]


def call(index: int, arguments: list[str], id: str = "toolu_1", name: str = "f") -> list[Json]:
    opened = start(index, {"type": "tool_use", "id": id, "name": name, "input": {}})
    return [opened, *(delta(index, type="input_json_delta", partial_json=piece) for piece in arguments), stop(index)]


def test_thinking_returns_byte_for_byte_in_front_of_the_call_it_led_to() -> None:
    said = "Café: “both” \u2028 cities."
    chunks = heard(
        LANGUAGE, events(BEGIN, *thought(0, said), *call(1, ["", '{"x":', "1}"]), *end("tool_use")), memo(thoughts=True)
    )
    answered = [part for chunk in chunks for part in parts(chunk)]
    assert answered[0] == {"text": said, "thought": True}
    written = letter(LANGUAGE, "claude-opus-5-5", again(answered, functions("f")))
    assert written.payload["messages"][1]["content"] == [
        {"type": "thinking", "thinking": said, "signature": "EqQB"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
    ]
    assert written.sealed


def test_thinking_that_was_cut_off_has_no_signature_and_stays_behind() -> None:
    chunks = heard(LANGUAGE, events(BEGIN, *thought(0, "Hm", signature=""), *end("max_tokens")))
    assert "thoughtSignature" not in str(chunks)
    assert chunks[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"


def signed(model: str, **more: str) -> str:
    blocks = [{"t": "thinking", "x": "x", "g": "g"}]
    return signatures.seal(
        blocks, **{"family": "anthropic", "scope": "scope", "model": model, "tenant": "tenant"} | more
    )


@pytest.mark.parametrize(
    ("signature", "calls", "kept"),
    [
        (signed("claude-opus-5-5"), True, True),
        (signed("claude-opus-5-5", scope="another account"), True, True),
        (signed("claude-sonnet-5-5"), True, True),
        (signed("claude-sonnet-5-5"), False, False),
        (signed("claude-opus-5-5"), False, True),
        (signed("claude-opus-5-5", tenant="another tenant"), True, False),
        (signed("claude-opus-5-5", family="converse"), True, False),
        ("skip_thought_signature_validator", True, False),
        ("AQIDBA==", True, False),
    ],
)
def test_whose_thinking_is_taken_back(signature: str, calls: bool, kept: bool) -> None:
    """Another model's thinking only helps inside a tool loop that is still open."""
    said: Json = {"functionCall": {"id": "c", "name": "f", "args": {}}} if calls else {"text": "Done."}
    written = letter(LANGUAGE, "claude-opus-5-5", again([{**said, "thoughtSignature": signature}], functions("f")))
    assert (written.payload["messages"][1]["content"][0]["type"] == "thinking") == kept
    assert written.sealed == kept


def test_a_model_that_does_not_think_is_given_no_thinking() -> None:
    said = [{"functionCall": {"id": "c", "name": "f", "args": {}}, "thoughtSignature": signed("claude-3-5-haiku")}]
    assert not letter(LANGUAGE, "claude-3-5-haiku", again(said, functions("f"))).sealed


# ── the answer ──


@pytest.mark.parametrize(
    ("why", "reason", "message"),
    [
        ("end_turn", "STOP", ""),
        ("stop_sequence", "STOP", ""),
        ("tool_use", "STOP", ""),
        ("max_tokens", "MAX_TOKENS", ""),
        ("model_context_window_exceeded", "MAX_TOKENS", "model_context_window_exceeded"),
        ("refusal", "SAFETY", "refusal"),
        ("pause_turn", "OTHER", "pause_turn"),
        ("compaction", "OTHER", "compaction"),
    ],
)
def test_why_it_ended(why: str, reason: str, message: str) -> None:
    *_, last = heard(LANGUAGE, events(BEGIN, *text("So."), *end(why)))
    assert last["candidates"][0]["finishReason"] == reason
    assert last["candidates"][0].get("finishMessage", "") == message


def test_a_stream_that_is_left_knows_what_its_prompt_cost() -> None:
    stream = anthropic_messages.Stream(Memo())
    usage = {"input_tokens": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3, "output_tokens": 1}
    stream.feed(Frame(json.dumps({"type": "message_start", "message": {"usage": usage}}).encode()))
    assert stream.counted is not None
    assert (stream.counted["promptTokenCount"], stream.counted["cachedContentTokenCount"]) == (28, 20)


def test_counts_are_cumulative_and_the_cache_belongs_to_the_prompt() -> None:
    begin = {"type": "message_start", "message": {"usage": {
        "input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1}}}  # fmt: skip
    ending = end("end_turn", output_tokens=50)
    ending[0]["usage"] |= {"input_tokens": None, "output_tokens_details": {"thinking_tokens": 30}}
    *_, last = heard(LANGUAGE, events(begin, *text("So."), *ending))
    assert last["usageMetadata"] == {
        "promptTokenCount": 130,
        "cachedContentTokenCount": 100,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 180,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 130}],
        "_cacheWriteTokens": 20,
    }


def test_a_call_without_arguments_is_whole_unless_the_limit_cut_it_off() -> None:
    whole = heard(LANGUAGE, events(BEGIN, *call(0, [""]), *end("tool_use")))
    assert parts(whole[-1])[0]["functionCall"]["args"] == {}
    cut = heard(LANGUAGE, events(BEGIN, *call(0, [""]), *end("max_tokens")))
    assert parts(cut[-1]) == [{"text": ""}]
    unary = {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "stop_reason": "max_tokens"}
    assert parts(anthropic_messages.response(unary, memo())) == [{"text": ""}]
    assert "functionCall" in parts(anthropic_messages.response(unary | {"stop_reason": "tool_use"}, memo()))[0]


def test_a_call_whose_block_starts_with_its_arguments_is_whole() -> None:
    opened = start(0, {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}})
    *_, last = heard(LANGUAGE, events(BEGIN, opened, stop(0), *end("tool_use")))
    assert parts(last)[0]["functionCall"]["args"] == {"x": 1}


def test_pings_and_server_tools_are_not_output() -> None:
    server = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    odd = [
        {"type": "ping"},
        start(0, server),
        delta(0, type="input_json_delta", partial_json='{"q":'),
        stop(0),
        {"type": "new"},
    ]
    chunks = heard(LANGUAGE, events(BEGIN, *odd, *text("So.", 1), *end()))
    assert [part for chunk in chunks for part in parts(chunk)] == [{"text": "So."}, {"text": ""}]


# ── what goes wrong ──


@pytest.mark.parametrize(
    ("kind", "type"),
    [("unavailable", "overloaded_error"), ("rate_limited", "rate_limit_error"), ("server", "api_error"),
     ("timeout", "timeout_error"), ("invalid", "invalid_request_error"), ("server", "something_new")],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], [BEGIN, *text("Half")]], ids=["first", "later"])
def test_an_error_inside_the_stream_is_an_error(kind: str, type: str, before: list[Json]) -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, events(*before, {"type": "error", "error": {"type": type, "message": "x"}}))
    assert trouble.value.kind == kind


def test_a_stream_without_its_end_was_cut_but_a_stop_reason_is_an_end() -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, events(BEGIN, *text("Half an ans")))
    assert trouble.value.kind == "cut"
    *_, last = heard(LANGUAGE, events(BEGIN, *text("Whole."), end()[0]))
    assert last["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'"x"'])
def test_rubbish_in_the_stream_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, [Frame(data)])
    assert trouble.value.kind == "protocol"


def test_invoke_model_wraps_the_same_events() -> None:
    plain = events(BEGIN, *text("So."), *end())
    wrapped = [
        Frame(json.dumps({"bytes": base64.b64encode(each.data).decode(), "p": "ab"}).encode(), "chunk")
        for each in plain
    ]
    assert heard(LANGUAGE, wrapped) == heard(LANGUAGE, plain)
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, [Frame(b'{"bytes":"?"}', "chunk")])
    assert trouble.value.kind == "protocol"


def test_invoke_models_own_metrics_count_where_nothing_else_does() -> None:
    last = {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 2}}
    finished = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    *_, said = heard(LANGUAGE, events(*text("So."), finished, last))
    assert said["usageMetadata"]["totalTokenCount"] == 7


def test_an_exception_frame_of_invoke_model_is_an_error() -> None:
    frames = [*events(BEGIN, *text("Half")), Frame(b'{"message":"Too many"}', "throttlingException", exception=True)]
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, frames)
    assert trouble.value.kind == "rate_limited"


def own(type: str, message: str = "x") -> Json:
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}


SIGNATURE = "messages.1.content.0: Invalid `signature` in `thinking` block"


@pytest.mark.parametrize(
    ("status", "body", "kind", "drop_field"),
    [
        (400, own("invalid_request_error"), "invalid", ""),
        (400, own("invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"), "too_long", ""),
        (400, own("invalid_request_error", "Your credit balance is too low to access the API."), "billing", ""),
        (400, own("invalid_request_error", SIGNATURE), "invalid", "thoughtSignature"),
        (400, own("invalid_request_error", "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                  "`tool_use`."), "invalid", "thoughtSignature"),
        (400, own("invalid_request_error", "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be "
                  "modified."), "invalid", "thoughtSignature"),
        (400, own("invalid_request_error", "`temperature` is deprecated for this model."), "invalid", "temperature"),
        (400, own("invalid_request_error", "top_p: Extra inputs are not permitted"), "invalid", "top_p"),
        (400, own("invalid_request_error", "tools.0.name: Extra inputs are not permitted"), "invalid", ""),
        (401, own("authentication_error"), "credential", ""),
        (403, own("permission_error"), "credential", ""),
        (402, own("billing_error"), "billing", ""),
        (404, own("not_found_error"), "not_found", ""),
        (413, own("request_too_large"), "invalid", ""),
        (429, own("rate_limit_error"), "rate_limited", ""),
        (500, own("api_error"), "server", ""),
        (504, own("timeout_error"), "timeout", ""),
        (529, own("overloaded_error"), "unavailable", ""),
        (400, {"error": {"code": 400, "status": "INVALID_ARGUMENT",
                         "message": json.dumps(own("invalid_request_error", SIGNATURE), separators=(",", ":"))}},
         "invalid", "thoughtSignature"),
        (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded"}}], "rate_limited", ""),
        (503, b"<html>", "unavailable", ""),
    ],
)  # fmt: skip
def test_a_refusal_is_understood(status: int, body: Any, kind: str, drop_field: str) -> None:
    meant = refused(LANGUAGE, status, body, {"request-id": "req_1"})
    assert (meant.kind, meant.drop_field, meant.request_id) == (kind, drop_field, "req_1")


@pytest.mark.parametrize(
    ("status", "name", "message", "kind", "drop_field"),
    [
        (400, "ValidationException", "Input is too long for requested model.", "too_long", ""),
        (400, "ValidationException:http://x/", SIGNATURE, "invalid", "thoughtSignature"),
        (400, "ValidationException", "The provided model identifier is invalid.", "not_found", ""),
        (403, "AccessDeniedException", "x", "credential", ""),
        (429, "ThrottlingException", "Too many tokens", "rate_limited", ""),
    ],
)
def test_awss_refusals_are_understood(status: int, name: str, message: str, kind: str, drop_field: str) -> None:
    meant = refused(LANGUAGE, status, {"message": message}, {"x-amzn-errortype": name, "x-amzn-requestid": "r"})
    assert (meant.kind, meant.drop_field, meant.request_id) == (kind, drop_field, "r")
