"""Bedrock Converse: what each family of models takes, reasoning that comes back, frames, and what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemini_api.errors import InvalidArgument
from gemini_api.translators import TRANSLATORS, bedrock_converse
from gemini_api.translators.base import Target
from routing.errors import UpstreamError
from routing.framing import EventStreamDecoder, Frame
from tests.gemini_api.languages import Json, again, asked, calling, functions, heard, letter, memo, parts, refused
from tests.gemini_api.test_golden import cases, read
from tests.upstreams.bedrock import frame

LANGUAGE = "bedrock_converse"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-pro-v1:0"
NOVA_2 = "global.amazon.nova-2-lite-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"
MISTRAL = "mistral.mistral-large-2407-v1:0"
TITAN = "amazon.titan-text-premier-v1:0"
GPT = "openai.gpt-6-sol"
GPT_OSS = "openai.gpt-oss-120b-1:0"
CONFIG = "generationConfig."
MODE = "toolConfig.functionCallingConfig.mode"


def said(*events: tuple[str, Json]) -> list[Frame]:
    return [Frame(json.dumps(data).encode(), event) for event, data in events]


def piece(delta: Json, index: int = 0) -> tuple[str, Json]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}


def closed(index: int = 0) -> tuple[str, Json]:
    return "contentBlockStop", {"contentBlockIndex": index}


def stopped(why: str = "end_turn") -> tuple[str, Json]:
    return "messageStop", {"stopReason": why}


COUNTED = ("metadata", {"usage": {"inputTokens": 5, "outputTokens": 3, "totalTokens": 8}, "metrics": {"latencyMs": 1}})


# ── families ──


@pytest.mark.parametrize(
    ("model", "config", "extra", "dropped"),
    [
        (NOVA_2, {"thinkingLevel": "LOW"}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, []),
        (NOVA_2, {"thinkingBudget": 0}, {"reasoningConfig": {"type": "disabled"}}, []),
        (NOVA, {"thinkingLevel": "LOW"}, None, [CONFIG + "thinkingConfig"]),
        (NOVA, {"thinkingBudget": 0}, None, []),
        (NOVA, {"includeThoughts": True}, None, []),
        (GPT_OSS, {"thinkingLevel": "XHIGH"}, {"reasoning_effort": "high"}, []),
        (GPT_OSS, {"thinkingBudget": 0}, {"reasoning_effort": "low"}, [CONFIG + "thinkingConfig"]),
        (GPT, {"thinkingBudget": 0}, {"reasoning": {"effort": "none"}}, []),
        (CLAUDE, {"thinkingBudget": 4000}, {"thinking": {"type": "enabled", "budget_tokens": 4000}}, []),
        ("us.anthropic.claude-opus-4-7-v1:0", {"thinkingLevel": "LOW"},
         {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}}, []),
    ],
)  # fmt: skip
def test_every_family_hears_of_effort_in_its_own_words(
    model: str, config: Json, extra: Json | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig={"thinkingConfig": config}))
    assert written.payload.get("additionalModelRequestFields") == extra
    assert list(written.dropped) == dropped


@pytest.mark.parametrize(
    ("model", "config", "inference", "extra", "dropped"),
    [
        (NOVA, {"temperature": 1.5, "topP": 0.9, "topK": 20, "maxOutputTokens": 99},
         {"maxTokens": 99, "temperature": 1, "topP": 0.9}, {"inferenceConfig": {"topK": 20}}, ["temperature"]),
        (CLAUDE, {"temperature": 0.5, "topP": 0.9, "topK": 20}, {"temperature": 0.5}, {"top_k": 20}, ["topP"]),
        (LLAMA, {"temperature": 0.5, "topP": 0.9, "topK": 20}, {"temperature": 0.5, "topP": 0.9}, None, ["topK"]),
        (CLAUDE, {"maxOutputTokens": 10**6}, {"maxTokens": 64000}, None, []),
        (LLAMA, {"seed": 3, "frequencyPenalty": 1}, None, None, ["seed", "frequencyPenalty"]),
        (NOVA_2, {"temperature": 0.5, "topP": 1, "maxOutputTokens": 99, "thinkingConfig": {"thinkingLevel": "HIGH"}},
         None, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}, ["maxOutputTokens", "temperature"]),
        (CLAUDE, {}, None, None, []),
    ],
)  # fmt: skip
def test_sampling_goes_where_the_family_wants_it(
    model: str, config: Json, inference: Json | None, extra: Json | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(generationConfig=config))
    assert written.payload.get("inferenceConfig") == inference
    assert written.payload.get("additionalModelRequestFields") == extra
    assert list(written.dropped) == [CONFIG + name for name in dropped]


@pytest.mark.parametrize(
    ("model", "choice", "names", "sent", "dropped"),
    [
        (NOVA, calling("ANY"), ["f", "g"], {"any": {}}, []),
        (NOVA, calling("ANY", "g"), ["f", "g"], {"tool": {"name": "g"}}, []),
        (NOVA, calling("ANY", "f", "g"), ["f", "g"], {"any": {}}, []),
        (MISTRAL, calling("ANY", "g"), ["g"], {"any": {}}, []),
        (LLAMA, calling("ANY", "g"), ["g"], None, [MODE]),
        ("us.anthropic.claude-opus-5-5-v1:0", calling("ANY", "g"), ["g"], None, [MODE]),
        (NOVA, calling("VALIDATED", "g"), ["g"], None, []),
        (NOVA, calling("NONE"), None, None, []),
    ],
)
def test_the_choice_of_functions(
    model: str, choice: Json, names: list[str] | None, sent: Json | None, dropped: list[str]
) -> None:
    written = letter(LANGUAGE, model, asked(tools=functions("f", "g"), toolConfig=choice))
    config = written.payload.get("toolConfig")
    assert (config and [each["toolSpec"]["name"] for each in config["tools"]]) == names
    assert (config or {}).get("toolChoice") == sent
    assert list(written.dropped) == dropped


@pytest.mark.parametrize(
    ("model", "count", "local"), [(LLAMA, 4, False), (LLAMA, 5, True), (CLAUDE, 5, False), (CLAUDE, 1, False)]
)
def test_more_stop_sequences_than_the_family_takes_are_found_here(model: str, count: int, local: bool) -> None:
    stops = [f"s{number}" for number in range(count)]
    written = letter(LANGUAGE, model, asked(generationConfig={"stopSequences": stops}))
    assert written.memo.stops == (tuple(stops) if local else ())
    assert written.payload.get("inferenceConfig") == (None if local else {"stopSequences": stops})


def test_a_model_without_system_hears_it_from_the_user() -> None:
    body = asked("Hi", systemInstruction={"parts": [{"text": "Be brief."}]})
    written = letter(LANGUAGE, TITAN, body)
    assert written.payload == {"messages": [{"role": "user", "content": [{"text": "Be brief."}, {"text": "Hi"}]}]}
    assert written.dropped == ("systemInstruction",)


@pytest.mark.parametrize(
    ("model", "mime", "block"),
    [
        (NOVA, "image/png", "image"), (LLAMA, "image/png", None), (NOVA, "video/mp4", "video"), (CLAUDE, "video/mp4", None),
        (CLAUDE, "application/pdf", "document"), ("amazon.nova-micro-v1:0", "application/pdf", None),
        (CLAUDE, "audio/wav", None), (LLAMA, "text/csv", "text"), (CLAUDE, "image/heic", None),
    ],
)  # fmt: skip
def test_media_the_family_does_not_take_are_refused_by_name(model: str, mime: str, block: str | None) -> None:
    body = asked()
    body["contents"][0]["parts"].append({"inlineData": {"mimeType": mime, "data": "YSxi"}})
    if block is None:
        with pytest.raises(InvalidArgument) as no:
            letter(LANGUAGE, model, body)
        assert no.value.field.startswith("contents[0].parts[1].inlineData")
    else:
        assert block in letter(LANGUAGE, model, body).payload["messages"][0]["content"][1]


def test_a_file_in_s3_is_pointed_at() -> None:
    body = asked()
    body["contents"][0]["parts"].append({"fileData": {"mimeType": "image/png", "fileUri": "s3://bucket/x.png"}})
    image = letter(LANGUAGE, NOVA, body).payload["messages"][0]["content"][1]["image"]
    assert image == {"format": "png", "source": {"s3Location": {"uri": "s3://bucket/x.png"}}}


def test_a_document_alone_gets_a_text_beside_it_and_a_name_of_its_own() -> None:
    pdf = {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0=", "displayName": "a/b: ü?.pdf"}}
    body = {"contents": [{"role": "user", "parts": [pdf, pdf]}]}
    blocks = letter(LANGUAGE, CLAUDE, body).payload["messages"][0]["content"]
    assert [block["document"]["name"] for block in blocks[:2]] == ["a b", "a b 2"]
    assert blocks[2] == {"text": "."}


def test_functions_of_a_model_that_calls_none_are_refused() -> None:
    with pytest.raises(InvalidArgument) as no:
        letter(LANGUAGE, TITAN, asked(tools=functions("f")))
    assert no.value.field == "tools"


def test_results_stand_alone_where_the_family_wants_it_and_ids_are_short_where_it_must() -> None:
    said_before = [{"functionCall": {"id": "a-very-long-id", "name": "f", "args": {}}}]
    body = again(said_before, functions("f"))
    body["contents"][2]["parts"].append({"text": "Well?"})
    messages = letter(LANGUAGE, MISTRAL, body).payload["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user", "assistant", "user"]
    id = messages[1]["content"][0]["toolUse"]["toolUseId"]
    assert len(id) == 9 and id.isalnum()
    assert messages[2]["content"][0]["toolResult"]["toolUseId"] == id
    assert len(letter(LANGUAGE, NOVA, body).payload["messages"]) == 3


@pytest.mark.parametrize(("model", "status", "text"), [(NOVA, "error", "no"), (LLAMA, None, '{"error":"no"}')])
def test_a_failure_has_a_status_where_the_family_knows_one(model: str, status: str | None, text: str) -> None:
    body = again([{"functionCall": {"id": "c", "name": "f", "args": {}}}], functions("f"))
    body["contents"][2]["parts"][0]["functionResponse"]["response"] = {"error": "no"}
    result = letter(LANGUAGE, model, body).payload["messages"][2]["content"][0]["toolResult"]
    assert result.get("status") == status
    assert result["content"] == [{"text": text}]


def test_an_empty_result_still_says_something() -> None:
    body = again([{"functionCall": {"id": "c", "name": "f", "args": {}}}], functions("f"))
    body["contents"][2]["parts"][0]["functionResponse"]["response"] = {"output": " "}
    result = letter(LANGUAGE, NOVA, body).payload["messages"][2]["content"][0]["toolResult"]
    assert result["content"] == [{"text": "(empty)"}]


def test_a_model_without_structured_output_is_told_in_words() -> None:
    config = {
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    }
    written = letter(LANGUAGE, NOVA, asked(generationConfig=config))
    assert '"properties"' in written.payload["system"][0]["text"]
    assert written.memo.json_fallback
    assert written.dropped == (CONFIG + "responseSchema",)


@pytest.mark.parametrize("model", [NOVA, "us.anthropic.claude-sonnet-4-6-v1:0"])
def test_only_models_that_can_continue_a_turn_are_given_one(model: str) -> None:
    body = asked()
    body["contents"].append({"role": "model", "parts": [{"text": "Once upon "}]})
    with pytest.raises(InvalidArgument, match="contents"):
        letter(LANGUAGE, model, body)
    assert letter(LANGUAGE, CLAUDE, body).payload["messages"][-1]["content"] == [{"text": "Once upon"}]


def test_a_deployments_own_capabilities_go_before_the_shipped_ones() -> None:
    config = {"thinkingConfig": {"thinkingLevel": "HIGH"}}
    own = {"efforts": ["low"], "effort_in": "reasoning_effort"}
    written = letter(LANGUAGE, LLAMA, asked(generationConfig=config), capabilities=own)
    assert written.payload["additionalModelRequestFields"] == {"reasoning_effort": "low"}


def test_counting_sends_what_is_read_and_nothing_about_the_answer() -> None:
    body = asked(tools=functions("f"), generationConfig={"temperature": 0.1, "maxOutputTokens": 9})
    written = bedrock_converse.count_request(body, Target(CLAUDE, strict=True))
    assert set(written.payload) == {"messages", "toolConfig"}
    assert bedrock_converse.count_response({"inputTokens": 31}) == 31


# ── the answer ──


def test_reasoning_returns_byte_for_byte_in_front_of_the_call_it_led_to() -> None:
    frames = said(
        ("messageStart", {"role": "assistant"}),
        piece({"reasoningContent": {"text": "Both "}}),
        piece({"reasoningContent": {"text": "cities."}}),
        piece({"reasoningContent": {"signature": "EqQB"}}),
        closed(),
        ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "tooluse_1", "name": "f"}}}),
        piece({"toolUse": {"input": '{"x":'}}, 1),
        piece({"toolUse": {"input": "1}"}}, 1),
        closed(1),
        stopped("tool_use"),
        COUNTED,
    )
    chunks = heard(LANGUAGE, frames, memo(thoughts=True))
    answered = [part for chunk in chunks for part in parts(chunk)]
    assert "".join(part["text"] for part in answered if part.get("thought")) == "Both cities."
    written = letter(LANGUAGE, "us.anthropic.claude-opus-5-5-v1:0", again(answered, functions("f")))
    assert written.payload["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Both cities.", "signature": "EqQB"}}},
        {"toolUse": {"toolUseId": "tooluse_1", "name": "f", "input": {"x": 1}}},
    ]
    assert written.sealed


def test_reasoning_without_a_signature_is_shown_and_stays_behind() -> None:
    chunks = heard(
        LANGUAGE, said(piece({"reasoningContent": {"text": "Hm."}}), closed(), piece({"text": "Yes."}, 1), stopped())
    )
    assert "thoughtSignature" not in str(chunks)


@pytest.mark.parametrize("before", [True, False])
def test_the_counts_may_come_before_or_after_the_stop(before: bool) -> None:
    ending = [COUNTED, stopped()] if before else [stopped(), COUNTED]
    *_, last = heard(LANGUAGE, said(piece({"text": "So."}), closed(), *ending))
    assert last["usageMetadata"]["totalTokenCount"] == 8
    assert last["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("end_turn", "STOP"), ("stop_sequence", "STOP"), ("tool_use", "STOP"), ("max_tokens", "MAX_TOKENS"),
        ("model_context_window_exceeded", "MAX_TOKENS"), ("guardrail_intervened", "SAFETY"), ("content_filtered", "SAFETY"),
        ("malformed_tool_use", "MALFORMED_FUNCTION_CALL"), ("malformed_model_output", "MALFORMED_RESPONSE"), ("new", "OTHER"),
    ],
)  # fmt: skip
def test_why_it_ended(why: str, reason: str) -> None:
    *_, last = heard(LANGUAGE, said(piece({"text": "So."}), closed(), stopped(why)))
    assert last["candidates"][0]["finishReason"] == reason
    unary = {"output": {"message": {"role": "assistant", "content": [{"text": "So."}]}}, "stopReason": why}
    assert bedrock_converse.response(unary, memo())["candidates"][0]["finishReason"] == reason


def test_citations_and_pictures_are_output() -> None:
    cited = {"citationsContent": {"content": [{"text": "As "}, {"text": "written."}], "citations": []}}
    content = [cited, {"image": {"format": "png", "source": {"bytes": "iVBO"}}}]
    answer = bedrock_converse.response({"output": {"message": {"content": content}}, "stopReason": "end_turn"}, memo())
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}
    assert parts(answer) == [{"text": "As written."}, picture]
    start = ("contentBlockStart", {"contentBlockIndex": 0, "start": {"image": {"format": "png"}}})
    chunks = heard(LANGUAGE, said(start, piece({"image": {"source": {"bytes": "iVBO"}}}), closed(), stopped()))
    assert parts(chunks[0]) == [picture]


def test_a_call_without_arguments_is_whole_unless_the_limit_cut_it_off() -> None:
    start = ("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "f"}}})
    whole = heard(LANGUAGE, said(start, closed(), stopped("tool_use")))
    assert parts(whole[-1])[0]["functionCall"]["args"] == {}
    assert parts(heard(LANGUAGE, said(start, closed(), stopped("max_tokens")))[-1]) == [{"text": ""}]


def test_a_stop_sequence_found_here_ends_the_upstream() -> None:
    stream = TRANSLATORS[LANGUAGE].Stream(memo(stops=("END",)))
    chunks = [
        chunk for each in said(piece({"text": "one E"}), piece({"text": "ND two"})) for chunk in stream.feed(each)
    ]
    assert stream.ended
    chunks += stream.finish()
    assert "".join(part["text"] for chunk in chunks for part in parts(chunk)) == "one "


@pytest.mark.parametrize(("folder", "language"), [case for case in cases("frames.json") if case.values[1] == LANGUAGE])
def test_no_cut_of_the_network_changes_the_chunks(folder: Path, language: str) -> None:
    given = read(folder, f"{language}.frames.json")
    wire = b"".join(frame("event", each["event"], each["data"]) for each in given)
    whole = decoded([wire])
    assert [(each.event, json.loads(each.data)) for each in whole] == [(each["event"], each["data"]) for each in given]
    for cut in range(1, len(wire)):
        assert decoded([wire[:cut], wire[cut:]]) == whole
    assert decoded([wire[at : at + 1] for at in range(len(wire))]) == whole


def decoded(pieces: list[bytes]) -> list[Frame]:
    decoder = EventStreamDecoder()
    return [each for one in pieces for each in decoder.feed(one)] + decoder.finish()


# ── what goes wrong ──


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("throttlingException", {"message": "x"}, "rate_limited"),
        ("validationException", {"message": "x"}, "invalid"),
        ("internalServerException", {"message": "x"}, "server"),
        ("serviceUnavailableException", {"message": "x"}, "unavailable"),
        ("modelTimeoutException", {"message": "x"}, "timeout"),
        ("modelStreamErrorException", {"message": "x"}, "unavailable"),
        ("modelStreamErrorException", {"message": "x", "originalStatusCode": 400, "originalMessage": "bad"}, "invalid"),
        (
            "modelStreamErrorException",
            {"message": "x", "originalStatusCode": 429, "originalMessage": "slow"},
            "rate_limited",
        ),
        ("somethingNew", {"message": "x"}, "unavailable"),
    ],
)
@pytest.mark.parametrize("before", [[], [piece({"text": "Half an ans"})]], ids=["first", "later"])
def test_an_exception_inside_the_stream_is_an_error(name: str, data: Json, kind: str, before: list[Any]) -> None:
    frames = [*said(*before), *decoded([frame("exception", name, data)])]
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, frames)
    assert trouble.value.kind == kind
    assert trouble.value.provider_code == name[0].upper() + name[1:]


def test_a_stream_without_its_end_was_cut() -> None:
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, said(piece({"text": "Half an ans"}), closed(), COUNTED))
    assert trouble.value.kind == "cut"
    with pytest.raises(UpstreamError) as trouble:
        heard(LANGUAGE, [Frame(b"<html>", "contentBlockDelta")])
    assert trouble.value.kind == "protocol"
    with pytest.raises(UpstreamError) as trouble:
        bedrock_converse.response({"message": "x"}, memo())
    assert trouble.value.kind == "protocol"


@pytest.mark.parametrize(
    ("status", "name", "message", "kind", "drop_field"),
    [
        (400, "ValidationException", "x", "invalid", ""),
        (400, "ValidationException", "Input is too long for requested model.", "too_long", ""),
        (400, "ValidationException", "The provided model identifier is invalid.", "not_found", ""),
        (400, "ValidationException", "Invocation with on-demand throughput isn’t supported.", "not_found", ""),
        (400, "ValidationException", "User messages cannot contain reasoning content.", "invalid", "thoughtSignature"),
        (
            400,
            "ValidationException",
            "The model returned the following errors: `temperature` is deprecated for this model.",
            "invalid",
            "inferenceConfig.temperature",
        ),
        (403, "AccessDeniedException", "x", "credential", ""),
        (403, "ExpiredTokenException", "x", "credential", ""),
        (403, "InvalidSignatureException", "x", "credential", ""),
        (404, "ResourceNotFoundException", "x", "not_found", ""),
        (408, "ModelTimeoutException", "x", "timeout", ""),
        (424, "ModelErrorException", "x", "unavailable", ""),
        (429, "ThrottlingException", "x", "rate_limited", ""),
        (429, "ModelNotReadyException", "x", "unavailable", ""),
        (400, "ServiceQuotaExceededException", "x", "rate_limited", ""),
        (500, "InternalServerException", "x", "server", ""),
        (503, "ServiceUnavailableException", "x", "unavailable", ""),
    ],
)
def test_a_refusal_is_understood(status: int, name: str, message: str, kind: str, drop_field: str) -> None:
    by_header = refused(LANGUAGE, status, {"message": message}, {"x-amzn-errortype": f"{name}:http://aws/"})
    by_body = refused(LANGUAGE, status, {"__type": f"com.amazon.coral.service#{name}", "Message": message})
    assert (by_header.kind, by_header.drop_field) == (by_body.kind, by_body.drop_field) == (kind, drop_field)
    assert by_header.provider_code == name


def test_account_numbers_stay_with_the_operator() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/x"
    meant = refused(
        LANGUAGE, 403, {"message": f"User {arn} is not authorized"}, {"x-amzn-errortype": "AccessDeniedException"}
    )
    assert "123456789012" not in meant.message
