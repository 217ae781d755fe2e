"""OpenAI Responses: what depends on the model, what comes back with the next turn, and what can go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from gemini_api import signatures
from gemini_api.errors import InvalidArgument
from gemini_api.translators import TRANSLATORS, responses
from gemini_api.translators.base import Target
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

LANGUAGE = "responses"
USAGE = {"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 8}
DONE = {"type": "response.completed", "response": {"id": "r", "status": "completed", "usage": USAGE}}


def text_delta(text: str, index: int = 0) -> Json:
    return {"type": "response.output_text.delta", "output_index": index, "content_index": 0, "delta": text}


def item_done(item: Json, index: int = 0) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def signed(blocks: list[Json], scope: str = "scope", tenant: str = "tenant") -> str:
    return signatures.seal(blocks, family="openai", scope=scope, model="gpt-6-sol", tenant=tenant)


# ── thinking and sampling, by model ──


@pytest.mark.parametrize(
    ("model", "config", "reasoning", "dropped"),
    [
        ("gpt-6-sol", {"thinkingConfig": {"thinkingBudget": 0}}, {"effort": "none"}, []),
        (
            "gpt-5",
            {"thinkingConfig": {"thinkingBudget": 0}},
            {"effort": "minimal"},
            ["generationConfig.thinkingConfig"],
        ),
        ("gpt-6.1-sol", {"thinkingConfig": {"thinkingBudget": 512}}, {"effort": "low"}, []),
        ("gpt-6.1-sol", {"thinkingConfig": {"thinkingBudget": 8192}}, {"effort": "medium"}, []),
        ("gpt-6.1-sol", {"thinkingConfig": {"thinkingBudget": 30000}}, {"effort": "xhigh"}, []),
        ("o3", {"thinkingConfig": {"thinkingLevel": "XHIGH"}}, {"effort": "high"}, []),
        ("gpt-6.1-sol", {"thinkingConfig": {"thinkingBudget": -1}}, None, []),
        ("gpt-6.1-sol", {"thinkingConfig": {"includeThoughts": True}}, {"summary": "auto"}, []),
        ("gpt-6-sol", {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 0}}, {"effort": "none"}, []),
        ("gpt-4o", {"thinkingConfig": {"thinkingLevel": "HIGH"}}, None, ["generationConfig.thinkingConfig"]),
        ("gpt-4o", {"thinkingConfig": {"thinkingBudget": 0}}, None, []),
        ("gpt-4o", {}, None, []),
    ],
)
def test_effort_is_snapped_to_what_the_model_knows(
    model: str, config: Json, reasoning: Json | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig=config))
    assert written.payload.get("reasoning") == reasoning
    assert list(written.dropped) == dropped
    assert ("include" in written.payload) == model.startswith(("gpt-5", "gpt-6", "o3"))


@pytest.mark.parametrize(
    ("model", "config", "sent", "dropped"),
    [
        ("gpt-4o", {"temperature": 1.4, "topP": 0.9}, {"temperature": 1.4, "top_p": 0.9}, []),
        ("gpt-6.1-sol", {"temperature": 0.2, "topP": 0.9}, {}, ["temperature", "topP"]),
        ("gpt-6.1-sol", {"temperature": 1, "topP": 1}, {}, []),
        ("gpt-5.6", {"temperature": 0.2}, {}, ["temperature"]),
        ("gpt-5.6", {"temperature": 0.2, "thinkingConfig": {"thinkingBudget": 0}}, {"temperature": 0.2}, []),
        ("gpt-5.4", {"temperature": 0.2}, {"temperature": 0.2}, []),
        ("gpt-4o", {"topK": 3, "seed": 1, "presencePenalty": 1, "frequencyPenalty": 1}, {},
         ["topK", "seed", "presencePenalty", "frequencyPenalty"]),
        ("gpt-4o", {"maxOutputTokens": 5}, {"max_output_tokens": 16}, ["maxOutputTokens"]),
        ("gpt-4o", {"maxOutputTokens": 50}, {"max_output_tokens": 50}, []),
    ],
)  # fmt: skip
def test_sampling_follows_the_models_limits(model: str, config: Json, sent: Json, dropped: list[str]) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig=config))
    names = ("temperature", "top_p", "max_output_tokens", "seed", "stop")
    assert {name: value for name, value in written.payload.items() if name in names} == sent
    assert list(written.dropped) == [f"generationConfig.{name}" for name in dropped]


def test_log_probabilities_are_asked_for_where_the_model_gives_them_and_refused_elsewhere() -> None:
    body = asked(generationConfig={"responseLogprobs": True, "logprobs": 3})
    written = letter(LANGUAGE, "gpt-4o", body).payload
    assert written["top_logprobs"] == 3
    assert written["include"] == ["message.output_text.logprobs"]
    with pytest.raises(InvalidArgument, match="responseLogprobs"):
        letter(LANGUAGE, "gpt-6.1-sol", body)


def test_log_probabilities_come_back() -> None:
    delta = text_delta("a") | {"logprobs": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
    *_, last = heard(LANGUAGE, events(delta, DONE))
    assert last["candidates"][0]["avgLogprobs"] == -0.5


def test_everything_is_kept_off_the_vendors_shelf_and_every_function_says_whether_it_is_strict() -> None:
    written = letter(LANGUAGE, "gpt-4o", asked(tools=functions("f"))).payload
    assert written["store"] is False
    assert written["tools"][0]["strict"] is False


def test_a_server_without_schemas_is_told_in_words() -> None:
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "ARRAY", "items": {"type": "STRING"}}}
    written = letter(LANGUAGE, "some-model", asked(generationConfig=config), capabilities={"json_schema": False})
    assert '"array"' in written.payload["input"][0]["content"]
    assert written.memo.json_fallback and not written.memo.wrapped
    assert written.dropped == ("generationConfig.responseSchema",)


@pytest.mark.parametrize(("prompt", "told"), [("Three primes.", True), ("Three primes as json.", False)])
def test_json_mode_says_json_once(prompt: str, told: bool) -> None:
    body = asked(prompt, generationConfig={"responseMimeType": "application/json"})
    written = letter(LANGUAGE, "gpt-4o", body).payload
    assert written["text"] == {"format": {"type": "json_object"}}
    assert (written["input"][0]["role"] == "developer") == told


def test_a_server_that_knows_no_allowed_tools_only_sees_the_allowed_ones() -> None:
    body = asked(tools=functions("f", "g", "h"), toolConfig=calling("ANY", "f", "g"))
    written = letter(LANGUAGE, "some-model", body, capabilities={"allowed_tools": False}).payload
    assert [each["name"] for each in written["tools"]] == ["f", "g"]
    assert written["tool_choice"] == "required"


def test_counting_sends_what_is_read_and_nothing_about_the_answer() -> None:
    body = asked(
        tools=functions("f"),
        generationConfig={"temperature": 0.1, "maxOutputTokens": 9, "topK": 1, "stopSequences": ["x"]},
    )
    written = responses.count_request(body, Target("gpt-4o", strict=True))
    assert set(written.payload) == {"model", "input", "tools"}
    assert responses.count_response({"object": "response.input_tokens", "input_tokens": 31}) == 31


# ── reasoning comes back ──


def reasoning_item(index: int = 0, **more: Any) -> Json:
    summary = [{"type": "summary_text", "text": "Plan."}]
    return {"type": "reasoning", "id": f"rs_{index}", "summary": summary, "encrypted_content": "gAAA"} | more


CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "f",
    "arguments": '{"x":1}',
    "status": "completed",
}


def test_reasoning_returns_unchanged_in_front_of_the_call_it_led_to() -> None:
    opened = {"type": "response.output_item.added", "output_index": 0, "item": reasoning_item(encrypted_content="gA")}
    chunks = heard(LANGUAGE, events(opened, item_done(reasoning_item()), item_done(CALL, 1), DONE))
    said = [part for chunk in chunks for part in parts(chunk)]
    written = letter(LANGUAGE, "gpt-6-sol", again(said, functions("f")))
    assert written.payload["input"][1:3] == [
        reasoning_item(),
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"x":1}'},
    ]
    assert written.sealed


@pytest.mark.parametrize(
    ("signature", "model"),
    [
        (signed([{"t": "reasoning", "id": "rs", "e": "gAAA", "sum": []}], scope="another account"), "gpt-6-sol"),
        (signed([{"t": "reasoning", "id": "rs", "e": "gAAA", "sum": []}], tenant="another tenant"), "gpt-6-sol"),
        (signed([{"t": "reasoning", "id": "rs", "e": "gAAA", "sum": []}]), "gpt-4o"),
        (signed([{"t": "reasoning", "id": "rs", "e": "", "sum": []}]), "gpt-6-sol"),
        (signatures.seal([{"t": "thinking", "x": "x", "g": "g"}], family="anthropic", scope="scope", model="m", tenant="tenant"),
         "gpt-6-sol"),
        ("skip_thought_signature_validator", "gpt-6-sol"),
        ("AQIDBA==", "gpt-6-sol"),
    ],
)  # fmt: skip
def test_reasoning_of_others_stays_behind(signature: str, model: str) -> None:
    said = [{"functionCall": {"id": "c", "name": "f", "args": {}}, "thoughtSignature": signature}]
    written = letter(LANGUAGE, model, again(said, functions("f")))
    assert [item.get("type", "message") for item in written.payload["input"]] == [
        "message",
        "function_call",
        "function_call_output",
    ]
    assert not written.sealed


def test_reasoning_that_nothing_follows_is_left_out() -> None:
    said = [
        {"text": "Hm."},
        {"text": "", "thoughtSignature": signed([{"t": "reasoning", "id": "rs", "e": "gAAA", "sum": []}])},
    ]
    written = letter(LANGUAGE, "gpt-6-sol", again(said, []))
    assert not any(item.get("type") == "reasoning" for item in written.payload["input"])
    assert not written.sealed


def test_the_phase_of_a_message_comes_back_with_it() -> None:
    message = {"type": "message", "id": "m", "role": "assistant", "phase": "commentary", "content": []}
    opened = {"type": "response.output_item.added", "output_index": 0, "item": message}
    chunks = heard(LANGUAGE, events(opened, text_delta("Reading."), item_done(message), item_done(CALL, 1), DONE))
    said = [part for chunk in chunks for part in parts(chunk)]
    written = letter(LANGUAGE, "gpt-6-sol", again(said, functions("f")))
    assert written.payload["input"][1] == {"role": "assistant", "content": "Reading.", "phase": "commentary"}


# ── the answer ──


def test_summary_parts_are_parted_by_a_blank_line() -> None:
    def thought(text: str, part: int) -> Json:
        return {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 0,
            "summary_index": part,
            "delta": text,
        }

    chunks = heard(LANGUAGE, events(thought("One", 0), thought(".", 0), thought("Two", 1), DONE), memo(thoughts=True))
    said = "".join(part["text"] for chunk in chunks for part in parts(chunk) if part.get("thought"))
    assert said == "One.\n\nTwo"
    unary = {
        "status": "completed",
        "output": [reasoning_item(summary=[{"text": "One."}, {"text": "Two"}])],
        "usage": USAGE,
    }
    assert parts(responses.response(unary, memo(thoughts=True)))[0]["text"] == "One.\n\nTwo"


def test_thoughts_nobody_asked_for_are_not_shown() -> None:
    delta = {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "secret"}
    assert "secret" not in str(heard(LANGUAGE, events(delta, text_delta("Yes."), DONE)))


def test_a_message_that_never_came_in_pieces_is_said_at_its_end() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "All at once."}]}
    chunks = heard(LANGUAGE, events(item_done(message), DONE))
    assert parts(chunks[0]) == [{"text": "All at once."}]
    once = heard(LANGUAGE, events(text_delta("All at once."), item_done(message), DONE))
    assert [parts(chunk)[0]["text"] for chunk in once] == ["All at once.", ""]


def test_unknown_events_and_keepalives_are_not_output() -> None:
    odd = [
        {"type": "keepalive"},
        {"type": "response.web_search_call.searching"},
        {"type": "response.new_thing.delta", "delta": "x"},
    ]
    assert len(heard(LANGUAGE, [*events(*odd, DONE), Frame(b"[DONE]")])) == 1


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("max_output_tokens", "MAX_TOKENS"),
        ("max_messages", "MAX_TOKENS"),
        ("content_filter", "SAFETY"),
        ("steered", "OTHER"),
    ],
)
def test_an_incomplete_answer_says_why(why: str, reason: str) -> None:
    end = {"type": "response.incomplete",
           "response": {"status": "incomplete", "incomplete_details": {"reason": why}, "usage": USAGE}}  # fmt: skip
    *_, last = heard(LANGUAGE, events(text_delta("So"), end))
    assert last["candidates"][0]["finishReason"] == reason
    assert last["usageMetadata"]["thoughtsTokenCount"] == 2


def test_a_stop_sequence_found_here_ends_the_upstream() -> None:
    stream = TRANSLATORS[LANGUAGE].Stream(memo(stops=("END",)))
    chunks = [chunk for frame in events(text_delta("one E"), text_delta("ND two")) for chunk in stream.feed(frame)]
    assert stream.ended
    chunks += stream.finish()
    assert "".join(part["text"] for chunk in chunks for part in parts(chunk)) == "one "
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


# ── what goes wrong ──


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, "server"),
        (
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "x"}}},
            "rate_limited",
        ),
        ({"type": "response.failed", "response": {"error": {"code": "insufficient_quota", "message": "x"}}}, "billing"),
        ({"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "x"}}}, "invalid"),
        ({"type": "response.failed", "response": {"error": {"code": "image_too_large", "message": "x"}}}, "invalid"),
        (
            {"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "x"}}},
            "too_long",
        ),
        ({"type": "response.failed", "response": {"error": None}}, "server"),
        ({"type": "error", "code": "server_error", "message": "x", "param": None}, "server"),
        (
            {"type": "error", "error": {"type": "server_error", "code": "rate_limit_exceeded", "message": "x"}},
            "rate_limited",
        ),
        ({"error": {"message": "x", "code": "server_error"}}, "server"),
    ],
)
@pytest.mark.parametrize("before", [[], [text_delta("Half an ans")]], ids=["first", "later"])
def test_an_error_inside_the_stream_is_an_error(event: Json, kind: str, before: list[Json]) -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, events(*before, event))
    assert trouble.value.kind == kind


def test_a_prompt_blocked_in_the_stream_is_an_answer_and_a_block_later_ends_it() -> None:
    block = {
        "type": "response.failed",
        "response": {"error": {"code": "content_filter", "message": "x"}, "usage": USAGE},
    }
    (only,) = heard(LANGUAGE, events(block))
    assert only["promptFeedback"] == {"blockReason": "SAFETY"}
    assert "candidates" not in only
    *_, last = heard(LANGUAGE, events(text_delta("Half"), block))
    assert last["candidates"][0]["finishReason"] == "SAFETY"
    unary = responses.response({"status": "failed", "error": {"code": "bio_policy", "message": "x"}}, memo())
    assert unary["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}


def test_a_unary_failure_is_raised() -> None:
    with pytest.raises(UpstreamError) as trouble:
        responses.response({"status": "failed", "error": {"code": "server_error", "message": "x"}}, memo())
    assert trouble.value.kind == "server"


def test_a_stream_without_its_end_was_cut() -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, events(text_delta("Half an ans")))
    assert trouble.value.kind == "cut"
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, [Frame(b"<html>")])
    assert trouble.value.kind == "protocol"


@pytest.mark.parametrize(
    ("status", "error", "kind", "drop_field"),
    [
        (400, {"code": "invalid_encrypted_content", "message": "x"}, "invalid", "thoughtSignature"),
        (400, {"message": "The encrypted content gAAA could not be verified."}, "invalid", "thoughtSignature"),
        (400, {"code": "unsupported_parameter", "param": "temperature", "message": "x"}, "invalid", "temperature"),
        (
            400,
            {"code": "unsupported_value", "param": "reasoning.effort", "message": "x"},
            "invalid",
            "reasoning.effort",
        ),
        (
            400,
            {"param": "reasoning.summary", "message": "Your organization must be verified"},
            "invalid",
            "reasoning.summary",
        ),
        (400, {"code": "unsupported_parameter", "param": "reasoning.context", "message": "x"}, "invalid", "reasoning"),
        (400, {"code": "unsupported_parameter", "param": "top_logprobs", "message": "x"}, "invalid", ""),
        (400, {"code": "unsupported_parameter", "param": "tools", "message": "x"}, "invalid", ""),
        (400, {"code": "context_length_exceeded", "message": "x"}, "too_long", ""),
        (400, {"message": "Your input exceeds the context window of this model."}, "too_long", ""),
        (401, {"code": "invalid_api_key", "message": "x"}, "credential", ""),
        (403, {"message": "x"}, "credential", ""),
        (404, {"code": "DeploymentNotFound", "message": "x"}, "not_found", ""),
        (429, {"code": "insufficient_quota", "message": "x"}, "billing", ""),
        (429, {"code": "rate_limit_exceeded", "message": "x"}, "rate_limited", ""),
        (500, {"message": "x"}, "server", ""),
        (503, {"message": "x"}, "unavailable", ""),
    ],
)
def test_a_refusal_is_understood(status: int, error: Json, kind: str, drop_field: str) -> None:
    meant = refused(LANGUAGE, status, {"error": error})
    assert (meant.kind, meant.drop_field) == (kind, drop_field)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[]", b'"x"', b"null"])
def test_a_refusal_without_sense_goes_by_its_status(body: bytes) -> None:
    assert refused(LANGUAGE, 502, body).kind == "unavailable"
