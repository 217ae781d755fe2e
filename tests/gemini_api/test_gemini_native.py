"""Gemini's own language goes through as it came, unless something in it must change."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from gemini_api import signatures, wire
from gemini_api.errors import InvalidArgument
from gemini_api.translators import gemini
from gemini_api.translators.base import Letter, Memo, Raw, Target
from lib import json as codec
from routing.errors import UpstreamError
from routing.framing import Frame

Json = dict[str, Any]
HI = [{"role": "user", "parts": [{"text": "hi"}]}]
PRO = "gemini-3.1-pro-preview"
DUMMY = signatures.DUMMY


def sent(body: Json, model: str = PRO, **fields: Any) -> tuple[Letter, bool]:
    """The letter, and whether it is the client's own bytes."""
    raw = json.dumps(body, indent=1).encode()
    before = copy.deepcopy(body)
    letter = gemini.request_bytes(raw, body, Target(model=model, **fields))
    assert body == before
    return letter, letter.payload is raw


def envelope() -> str:
    return signatures.seal([{"t": "thinking", "x": "hm"}], family="anthropic", scope="s", model="m", tenant="t")


def called(*parts: Json) -> Json:
    responses = [{"functionResponse": {"name": "f", "response": {}}} for _ in parts]
    return {"contents": [*HI, {"role": "model", "parts": list(parts)}, {"role": "user", "parts": responses}]}


@pytest.mark.parametrize(
    "body",
    [
        {"contents": HI},
        {
            "contents": HI,
            "generation_config": {"max_output_tokens": "5", "topK": 64.0},
            "tools": [{"google_search": {}}],
        },
        {"contents": HI, "brandNewField": {"any": None}},
        {"contents": HI, "generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH", "include_thoughts": True}}},
        {"contents": [{"role": "user", "parts": [{"inlineData": {"mime_type": "image/png", "data": "_-8"}}]}]},
        called({"functionCall": {"name": "f"}, "thoughtSignature": "AQID"}, {"functionCall": {"name": "f"}}),
        called({"functionCall": {"name": "f"}, "thoughtSignature": DUMMY}),
    ],
)
def test_bytes_that_need_no_change_leave_unchanged(body: Json) -> None:
    letter, same = sent(body)
    assert same
    assert letter.dropped == ()


@pytest.mark.parametrize("body", [{"contents": []}, {"contents": [{"role": "user", "parts": [{}]}]}, {}])
def test_what_says_nothing_is_not_sent_at_all(body: Json) -> None:
    with pytest.raises(InvalidArgument):
        sent(body)


def parts_sent(body: Json, model: str = PRO) -> list[Json]:
    letter, same = sent(body, model)
    assert not same
    assert isinstance(letter.payload, dict)
    found: list[Json] = letter.payload["contents"][1]["parts"]
    return found


def test_our_own_envelopes_are_taken_out_and_the_dummy_put_in() -> None:
    body = called({"functionCall": {"name": "f"}, "thoughtSignature": envelope()}, {"functionCall": {"name": "f"}})
    assert [part.get("thoughtSignature") for part in parts_sent(body)] == [DUMMY, None]
    assert [part.get("thoughtSignature") for part in parts_sent(body, "gemini-2.5-pro")] == [None, None]


def test_calls_that_no_gemini_made_get_the_dummy_in_the_current_turn() -> None:
    body = called({"functionCall": {"name": "f"}})
    assert parts_sent(body)[0]["thoughtSignature"] == DUMMY
    body["contents"].append({"role": "user", "parts": [{"text": "another question"}]})
    assert sent(body)[1], "calls of earlier turns need no signature"


def test_a_part_that_held_nothing_but_our_envelope_goes() -> None:
    contents = [*HI, {"role": "model", "parts": [{"text": "a"}, {"text": "", "thoughtSignature": envelope()}]}, *HI]
    assert parts_sent({"contents": contents}) == [{"text": "a"}]


@pytest.mark.parametrize(
    ("options", "capabilities", "vertex"),
    [
        ({}, {}, False),
        ({"project": "p"}, {}, True),
        ({"location": "global"}, {}, True),
        ({}, {"platform": "vertex"}, True),
        ({"project": "p"}, {"platform": "developer"}, False),
    ],
)
def test_fields_of_the_other_platform_are_left_out_and_named(options: Json, capabilities: Json, vertex: bool) -> None:
    body = {
        "contents": HI,
        "labels": {"team": "x"},
        "store": True,
        "modelArmorConfig": {},
        "generationConfig": {"audioTimestamp": True, "enableEnhancedCivicAnswers": True},
        "tools": [{"enterpriseWebSearch": {}}, {"fileSearch": {}}],
    }
    letter, same = sent(body, options=options, capabilities=capabilities)
    assert not same
    assert isinstance(letter.payload, dict)
    kept = letter.payload
    if vertex:
        assert kept["labels"] == {"team": "x"}
        assert kept["generationConfig"] == {"audioTimestamp": True}
        assert kept["tools"] == [{"enterpriseWebSearch": {}}]
        assert "store" not in kept
        assert set(letter.dropped) == {"generationConfig.enableEnhancedCivicAnswers", "tools.fileSearch"}
    else:
        assert kept["store"] is True
        assert kept["generationConfig"] == {"enableEnhancedCivicAnswers": True}
        assert kept["tools"] == [{"fileSearch": {}}]
        assert "labels" not in kept
        assert set(letter.dropped) == {
            "modelArmorConfig",
            "generationConfig.audioTimestamp",
            "tools.enterpriseWebSearch",
        }


def test_a_strict_key_hears_of_fields_of_the_other_platform() -> None:
    with pytest.raises(InvalidArgument) as refused:
        sent({"contents": HI, "modelArmorConfig": {}}, strict=True)
    assert refused.value.field == "modelArmorConfig"


@pytest.mark.parametrize(
    ("model", "asked", "expected", "dropped"),
    [
        ("gemini-2.5-flash", {"thinkingLevel": "HIGH"}, {"thinkingBudget": 24576}, False),
        ("gemini-2.5-flash", {"thinkingBudget": 0}, {"thinkingBudget": 0}, False),
        ("gemini-2.5-pro", {"thinkingBudget": 0}, {"thinkingBudget": 128}, True),
        ("gemini-2.5-flash-lite", {"thinkingBudget": 100}, {"thinkingBudget": 512}, False),
        ("gemini-2.5-pro", {"thinkingBudget": -1}, {"thinkingBudget": -1}, False),
        ("gemini-2.0-flash", {"thinkingBudget": 100}, None, True),
        ("gemini-3-pro-preview", {"thinkingLevel": "MEDIUM"}, {"thinkingLevel": "LOW"}, False),
        ("gemini-3.1-pro-preview", {"thinkingLevel": "MINIMAL"}, {"thinkingLevel": "LOW"}, False),
        ("gemini-3.1-pro-preview", {"thinkingBudget": 0}, {"thinkingLevel": "LOW"}, True),
        ("gemini-3.1-pro-preview", {"thinkingBudget": 8192}, {"thinkingBudget": 8192}, False),
        ("gemini-4-argon", {"thinkingBudget": 8192}, {"thinkingLevel": "MEDIUM"}, False),
        ("gemini-4-argon", {"thinkingBudget": -1, "includeThoughts": True}, {"includeThoughts": True}, False),
        ("my-own-gemini", {"thinkingBudget": 7}, {"thinkingBudget": 7}, False),
    ],
)
def test_thinking_is_asked_for_as_the_models_generation_wants_it(
    model: str, asked: Json, expected: Json | None, dropped: bool
) -> None:
    letter, _ = sent({"contents": HI, "generationConfig": {"thinkingConfig": asked}}, model)
    said = json.loads(letter.payload) if isinstance(letter.payload, bytes) else letter.payload
    assert said.get("generationConfig", {}).get("thinkingConfig") == expected
    assert letter.dropped == (("generationConfig.thinkingConfig",) if dropped else ())


@pytest.mark.parametrize(
    ("tier", "capabilities", "goes"),
    [
        ("priority", {}, False), ("SERVICE_TIER_PRIORITY", {}, False), (3, {}, False), ("flex", {}, True),
        ("SERVICE_TIER_STANDARD", {}, True), ("priority", {"dear_tiers": True}, True),
    ],
)  # fmt: skip
def test_a_tier_that_costs_more_is_only_asked_for_where_the_deployment_says_so(
    tier: Any, capabilities: Json, goes: bool
) -> None:
    letter, same = sent({"contents": HI, "serviceTier": tier}, capabilities=capabilities)
    assert same == goes
    assert letter.dropped == (() if goes else ("serviceTier",))
    assert goes or "serviceTier" not in letter.payload


def test_a_role_is_always_sent() -> None:
    letter, _ = sent({"contents": {"parts": {"text": "hi"}}})
    assert letter.payload == {"contents": HI}


# --- Answers ----------------------------------------------------------------------------------------------------------


def chunk(parts: list[Json], **candidate: Any) -> bytes:
    return json.dumps(
        {"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, **candidate}]}
    ).encode()


def test_a_stream_keeps_the_upstreams_bytes_and_holds_the_last_chunk() -> None:
    stream = gemini.Stream(Memo())
    first, last = chunk([{"text": "a"}]), chunk([{"text": "b"}], finishReason="STOP")
    (out,) = stream.feed(Frame(first))
    assert isinstance(out, Raw)
    assert out.data == first
    assert out["candidates"][0]["content"]["parts"] == [{"text": "a"}]
    assert stream.feed(Frame(last)) == []
    (held,) = stream.finish()
    assert isinstance(held, Raw)
    assert held.data == last


def test_every_chunk_leaves_as_one_line() -> None:
    data = '{\n "candidates": [{"content": {"parts": [{"text": "a\u2028b\u0085c"}]}, "index": 0}]\n}'.encode()
    (out,) = gemini.Stream(Memo()).feed(Frame(data))
    assert isinstance(out, Raw)
    assert len(out.data.decode().splitlines()) == 1
    assert codec.loads(out.data) == json.loads(data)


def test_usage_that_comes_after_the_finish_leaves_last() -> None:
    stream = gemini.Stream(Memo())
    stream.feed(Frame(chunk([{"text": "a"}], finishReason="STOP")))
    leaving = stream.feed(Frame(b'{"usageMetadata":{"totalTokenCount":3}}'))
    assert [each["candidates"][0]["finishReason"] for each in leaving] == ["STOP"]
    assert stream.finish() == [{"usageMetadata": {"totalTokenCount": 3}}]


def test_a_stream_without_a_finish_reason_was_cut() -> None:
    stream = gemini.Stream(Memo())
    stream.feed(Frame(chunk([{"text": "a"}])))
    with pytest.raises(UpstreamError) as trouble:
        stream.finish()
    assert trouble.value.kind == "cut"


def test_a_blocked_prompt_is_a_whole_answer() -> None:
    stream = gemini.Stream(Memo())
    assert stream.feed(Frame(b'{"promptFeedback":{"blockReason":"SAFETY"}}')) == []
    assert stream.finish() == [{"promptFeedback": {"blockReason": "SAFETY"}}]


def test_calls_without_ids_get_some_and_everything_else_stays() -> None:
    calls = [
        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "AQID"},
        {"functionCall": {"name": "f", "id": "x"}},
    ]
    (out,) = gemini.Stream(Memo()).feed(Frame(chunk([{"text": "a"}, *calls])))
    text, first, second = out["candidates"][0]["content"]["parts"]
    assert text == {"text": "a"}
    assert first["functionCall"].pop("id").startswith("call_")
    assert first == {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "AQID"}
    assert second == {"functionCall": {"name": "f", "id": "x"}}


def test_a_unary_answer_keeps_the_upstreams_bytes_too() -> None:
    raw = b'{"candidates": [{"content": {"parts": [{"text": "a"}]}, "newField": 1e400}]}'.replace(b"1e400", b"1.50")
    out = gemini.response_bytes(raw, json.loads(raw), Memo())
    assert isinstance(out, Raw)
    assert out.data == raw


# --- Counting and embedding -------------------------------------------------------------------------------------------


def test_tokens_are_counted_of_the_whole_request() -> None:
    body = wire.normalise_count(
        {
            "generateContentRequest": {
                "model": "models/alias",
                "contents": HI,
                "system_instruction": {"parts": [{"text": "s"}]},
            }
        }
    )
    letter = gemini.count_request(body, Target(model=PRO))
    assert letter.payload == {
        "generateContentRequest": {"contents": HI, "systemInstruction": {"parts": [{"text": "s"}]}}
    }
    assert gemini.count_response({"totalTokens": 31}) == 31
    with pytest.raises(UpstreamError):
        gemini.count_response({})


@pytest.mark.parametrize(
    "answer",
    [
        {"embeddings": [{"values": [1.0]}]},
        {"embedding": {"values": [1.0]}},
        {"predictions": [{"embeddings": {"values": [1.0], "statistics": {"token_count": 2}}}]},
    ],
)
def test_embeddings_are_read_in_every_form(answer: Json) -> None:
    assert gemini.embed_response(answer, Memo()) == [[1.0]]
    assert gemini.embed_usage(answer).get("promptTokenCount", 0) == (2 if "predictions" in answer else 0)


def test_an_answer_without_embeddings_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        gemini.embed_response({"embeddings": [{}]}, Memo())
