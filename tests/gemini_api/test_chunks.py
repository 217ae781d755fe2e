"""The chunk builder: what leaves when, and what waits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import signatures
from gemini_api.translators.base import Memo
from gemini_api.translators.chunks import Answer, StopScanner, arguments_of, without_fence

Json = dict[str, Any]


def parts(chunks: list[Json]) -> list[Json]:
    return [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]


def test_text_leaves_at_once_and_calls_wait_for_the_last_chunk() -> None:
    answer = Answer(Memo(model="m"))
    answer.text("Checking.")
    first = answer.take()
    answer.call("c1", "f", '{"a": 1}')
    assert parts(first) == [{"text": "Checking."}]
    assert answer.take() == []
    answer.finish("STOP")
    answer.usage({"totalTokenCount": 3})
    (last,) = answer.end()
    assert last["candidates"][0]["content"]["parts"] == [{"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}}]
    assert last["candidates"][0]["finishReason"] == "STOP"
    assert last["usageMetadata"] == {"totalTokenCount": 3}
    assert last["responseId"] == first[0]["responseId"]


def test_an_answer_of_nothing_is_one_chunk_with_empty_text() -> None:
    answer = Answer(Memo())
    answer.finish("STOP")
    assert parts(answer.end()) == [{"text": ""}]


@pytest.mark.parametrize(("thoughts", "expected"), [(True, [{"text": "hm", "thought": True}]), (False, [])])
def test_thoughts_leave_only_when_they_were_asked_for(thoughts: bool, expected: list[Json]) -> None:
    answer = Answer(Memo(thoughts=thoughts))
    answer.thought("hm")
    assert parts(answer.take()) == expected


def test_reasoning_rides_on_the_first_part_that_follows() -> None:
    answer = Answer(Memo(model="m", scope="s", tenant="t"), "anthropic")
    answer.opaque({"t": "thinking", "x": "Both cities.", "g": "EqQB"})
    answer.text("Checking.")
    answer.text(" Now.")
    answer.call("c1", "f", {})
    answer.finish("STOP")
    first, *others = parts([answer.whole()])
    assert first["text"] == "Checking. Now."
    envelope = signatures.open_(first["thoughtSignature"], "t")
    assert envelope == signatures.Envelope("anthropic", "s", "m", [{"t": "thinking", "x": "Both cities.", "g": "EqQB"}])
    assert not any("thoughtSignature" in part for part in others)


def test_a_step_without_text_carries_its_reasoning_on_the_call() -> None:
    answer = Answer(Memo(model="m", scope="s", tenant="t"), "anthropic")
    answer.opaque({"t": "thinking", "x": "hm", "g": "EqQB"})
    answer.call("c1", "f", {})
    answer.call("c2", "f", {})
    answer.finish("STOP")
    first, second = parts(answer.end())
    envelope = signatures.open_(first["thoughtSignature"], "t")
    assert envelope is not None
    assert envelope.blocks == [{"t": "thinking", "x": "hm", "g": "EqQB"}]
    assert "thoughtSignature" not in second


def test_reasoning_that_nothing_follows_rides_on_the_last_chunk() -> None:
    answer = Answer(Memo(model="m"), "anthropic")
    answer.text("Done.")
    answer.opaque({"t": "redacted", "d": "x"})
    answer.finish("STOP")
    last = parts(answer.end())[-1]
    assert last["text"] == ""
    assert signatures.is_own(last["thoughtSignature"])


def test_ids_are_made_up_where_they_are_missing_or_double() -> None:
    answer = Answer(Memo())
    for given_id in ("", "a", "a"):
        answer.call(given_id, "f", {})
    ids = [part["functionCall"]["id"] for part in parts(answer.end())]
    assert ids[1] == "a"
    assert len(set(ids)) == 3
    assert all(each.startswith("call_") for each in (ids[0], ids[2]))


def test_names_go_back_to_what_the_client_called_them() -> None:
    answer = Answer(Memo(names={"get_weather_1": "get.weather"}))
    answer.call("a", "get_weather_1", {})
    answer.call("b", "unheard_of", {})
    assert [part["functionCall"]["name"] for part in parts(answer.end())] == ["get.weather", "unheard_of"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {}),
        (None, {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ('"{\\"a\\":1}"', {"a": 1}),
        ('""', {}),
        ("null", {}),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_arguments_are_an_object_whatever_form_they_come_in(given: Any, expected: Json) -> None:
    assert arguments_of(given) == expected


@pytest.mark.parametrize("given", ["{", "[1]", "1", "true", '"text"', [1], '"[1]"'])
def test_arguments_that_are_no_object_make_no_call(given: Any) -> None:
    answer = Answer(Memo())
    answer.call("c", "f", given)
    answer.finish("STOP")
    (last,) = answer.end()
    assert last["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert "f" in last["candidates"][0]["finishMessage"]
    assert parts([last]) == [{"text": ""}]


def test_a_call_cut_off_by_the_limit_is_only_cut_off() -> None:
    answer = Answer(Memo())
    answer.call("c", "f", '{"a":')
    answer.finish("MAX_TOKENS")
    assert answer.end()[0]["candidates"][0]["finishReason"] == "MAX_TOKENS"


@pytest.mark.parametrize(
    ("wrapped", "text", "expected"),
    [
        ("json", '{"value": [1, 2]}', "[1,2]"),
        ("json", '{"value": "a"}', '"a"'),
        ("enum", '{"value": "a"}', "a"),
        ("json", '{"value": [1, 2', '{"value": [1, 2'),
        ("json", "[1]", "[1]"),
        ("json", '{"other": 1}', '{"other": 1}'),
    ],
)
def test_a_wrapped_answer_is_unwrapped_at_its_end_or_left_as_it_is(wrapped: str, text: str, expected: str) -> None:
    answer = Answer(Memo(wrapped=wrapped))
    for letter in text:
        answer.text(letter)
        assert answer.take() == []
    answer.finish("STOP")
    assert parts(answer.end()) == [{"text": expected}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```json\n[1]\n```", "[1]"),
        ("[1]", "[1]"),
        ("```\n{}\n``` ", "{}"),
        ("see ```x```", "see ```x```"),
        ("``````", "``````"),
    ],
)
def test_one_code_fence_around_json_goes(text: str, expected: str) -> None:
    assert without_fence(text) == expected


def test_a_fence_goes_only_from_an_answer_that_is_still_whole() -> None:
    unary, stream = Answer(Memo(json_fallback=True)), Answer(Memo(json_fallback=True))
    for answer in (unary, stream):
        answer.text("```json\n[1]\n```")
        answer.finish("STOP")
    assert parts([unary.whole()]) == [{"text": "[1]"}]
    assert parts([*stream.take(), *stream.end()])[0] == {"text": "```json\n[1]\n```"}


def test_usage_that_nobody_counted_is_estimated_and_says_so() -> None:
    answer = Answer(Memo(prompt_tokens=10))
    answer.text("x" * 9)
    answer.finish("STOP")
    assert answer.end()[0]["usageMetadata"] == {
        "promptTokenCount": 10,
        "candidatesTokenCount": 3,
        "totalTokenCount": 13,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10}],
        "_estimated": True,
    }


def test_several_candidates_have_usage_in_the_very_last_chunk() -> None:
    answer = Answer(Memo())
    answer.candidate(1).text("b")
    answer.candidate(0).text("a")
    answer.usage({"totalTokenCount": 2})
    chunks = answer.take() + answer.end()
    assert [chunk["candidates"][0]["index"] for chunk in chunks] == [0, 1, 0, 1]
    assert ["usageMetadata" in chunk for chunk in chunks] == [False, False, False, True]


TEXTS = st.lists(st.text(alphabet="abAB \n", max_size=6), max_size=8)
STOPS = st.lists(st.text(alphabet="abAB \n", min_size=1, max_size=4), min_size=1, max_size=5)


# How long a machine takes to make examples says nothing about the code under test.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, STOPS)
def test_the_scanner_stops_at_the_first_stop_sequence_whatever_the_pieces(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(tuple(stops))
    shown = ""
    for piece in pieces:
        shown += scanner.feed(piece)
        assert not any(stop in shown for stop in stops)
    shown += scanner.flush()
    whole = "".join(pieces)
    if scanner.found:
        assert any(whole.startswith(shown + stop) for stop in stops)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == whole


def test_text_after_a_stop_sequence_is_never_shown() -> None:
    answer = Answer(Memo(stops=("END",)))
    answer.text("abc E")
    assert parts(answer.take()) == [{"text": "abc "}]
    answer.text("ND def")
    assert answer.stopped
    answer.text("ghi")
    answer.call("c", "f", {})
    (last,) = answer.end()
    assert parts([last]) == [{"text": ""}]
    assert last["candidates"][0]["finishReason"] == "STOP"


def test_chunks_are_plain_json() -> None:
    answer = Answer(Memo())
    answer.candidate(0).logprobs([{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}])
    answer.text("a")
    answer.finish("STOP")
    candidate = json.loads(json.dumps(answer.whole()))["candidates"][0]
    assert candidate["avgLogprobs"] == -0.5
    assert candidate["logprobsResult"]["chosenCandidates"] == [{"token": "a", "logProbability": -0.5}]
