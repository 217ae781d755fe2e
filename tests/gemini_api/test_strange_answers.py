"""Answers from strangers: whatever an upstream sends, a translator says Gemini or raises UpstreamError, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemini_api import answers
from gemini_api.translators import TRANSLATORS
from routing.errors import UpstreamError
from routing.framing import Frame
from tests.gemini_api.languages import memo
from tests.gemini_api.test_golden import GOLDEN, frames

Json = dict[str, Any]
LANGUAGES = ("chat_completions", "responses", "anthropic_messages", "bedrock_converse")
CASES = ("interleaved", "parallel_calls", "text")
ODD = st.sampled_from(
    [None, 0, -1, 2**70, 1.5, True, "", "x", "{", [], [None], ["x"], {}, {"type": "x"}, [{}], {"text": 5}]
)


def cases(language: str) -> list[str]:
    return [case for case in CASES if (GOLDEN / case / f"{language}.response.json").exists()]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value, every depth."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for name, each in inside for found in places(each, (*path, name)))]


def changed(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    value = copy.deepcopy(value)
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = odd
    return value


def is_gemini(chunk: Json) -> None:
    json.dumps(chunk)
    if "promptFeedback" in chunk:
        return
    for candidate in chunk["candidates"]:
        assert candidate["content"]["parts"]
        for part in candidate["content"]["parts"]:
            assert isinstance(part.get("text", ""), str)
            assert isinstance(part.get("functionCall", {}).get("args", {}), dict)


@pytest.mark.parametrize("language", LANGUAGES)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_odd_stream_is_gemini_or_an_upstream_error(language: str, data: st.DataObject) -> None:
    events = [
        each
        for each in frames(GOLDEN / data.draw(st.sampled_from(cases(language))), language)
        if each.data != b"[DONE]"
    ]
    at = data.draw(st.integers(0, len(events) - 1))
    event = json.loads(events[at].data)
    odd = changed(event, data.draw(st.sampled_from(places(event))), data.draw(ODD))
    given_frames = [*events[:at], Frame(json.dumps(odd).encode(), events[at].event), *events[at + 1 :]]
    stream = TRANSLATORS[language].Stream(memo(thoughts=True))
    try:
        chunks = [chunk for each in given_frames for chunk in stream.feed(each)] + stream.finish()
    except UpstreamError:
        return
    for chunk in chunks:
        is_gemini(chunk)


@pytest.mark.parametrize("language", LANGUAGES)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_an_odd_answer_is_gemini_or_an_upstream_error(language: str, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(cases(language)))
    answer = json.loads((GOLDEN / case / f"{language}.response.json").read_text())
    odd = changed(answer, data.draw(st.sampled_from(places(answer)[1:])), data.draw(ODD))
    with contextlib.suppress(UpstreamError):
        is_gemini(TRANSLATORS[language].response(odd, memo(thoughts=True)))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "answer", [{}, {"output": 5}, {"content": {}}, {"output": [None]}, {"output": {"message": []}}]
)
def test_an_answer_of_another_kind_is_gemini_or_an_upstream_error(language: str, answer: Json) -> None:
    try:
        is_gemini(TRANSLATORS[language].response(answer, memo()))
    except UpstreamError as trouble:
        assert trouble.kind in ("protocol", "server")


# Counts that are none: the answer is good, so it is answered, and what it cost is estimated

NO_USAGE = [
    [],
    [1],
    ["x"],
    [{}],
    "many",
    7,
    -1.5,
    True,
    {"prompt_tokens_details": [1], "completion_tokens_details": "x"},
]
WHERE = {"gemini": "usageMetadata"}


@pytest.mark.parametrize("odd", NO_USAGE, ids=repr)
@pytest.mark.parametrize("language", [*LANGUAGES, "gemini"])
def test_nonsense_for_usage_costs_neither_the_answer_nor_the_stream(language: str, odd: Any) -> None:
    translator, name = TRANSLATORS[language], WHERE.get(language, "usage")
    answer = json.loads((GOLDEN / "text" / f"{language}.response.json").read_bytes()) | {name: odd}
    events = [
        (json.loads(each.data), each.event) for each in frames(GOLDEN / "text", language) if each.data != b"[DONE]"
    ]
    for event, _ in events:
        for place in (event, event.get("response"), event.get("message")):
            if isinstance(place, dict) and name in place:
                place[name] = odd
    stream = translator.Stream(memo(thoughts=True))
    chunks = [chunk for event, kind in events for chunk in stream.feed(Frame(json.dumps(event).encode(), kind))]
    for each in (translator.response(answer, memo(thoughts=True)), *chunks, *stream.finish()):
        is_gemini(each)
        reading = answers.Reading()
        assert answers.read(each, reading) >= 0
        assert answers.payload(each)
        assert reading.tokens is None or reading.tokens.prompt < 10**6


@pytest.mark.parametrize("odd", NO_USAGE, ids=repr)
@pytest.mark.parametrize(
    ("language", "answer"),
    [
        ("chat_completions", {"data": [{"embedding": [0.5], "index": 0}], "usage": None}),
        ("gemini", {"embeddings": [{"values": [0.5]}], "usageMetadata": None}),
        ("gemini", {"predictions": [{"embeddings": {"values": [0.5], "statistics": None}}]}),
    ],
)
def test_nonsense_for_usage_costs_no_vectors(language: str, answer: Json, odd: Any) -> None:
    translator: Any = TRANSLATORS[language]
    answer = {name: odd if value is None else value for name, value in answer.items()}
    if "predictions" in answer:
        answer = changed(answer, ("predictions", 0, "embeddings", "statistics"), odd)
    assert translator.embed_response(answer, memo()) == [[0.5]]
    assert answers.tokens(translator.embed_usage(answer)).prompt == 0


@pytest.mark.parametrize("odd", ["x", 5, None, [None], [5], [{}], {"x": 1}, {}], ids=repr)
@pytest.mark.parametrize(
    ("language", "name"), [("chat_completions", "data"), ("gemini", "embeddings"), ("gemini", "predictions")]
)
def test_vectors_that_are_none_are_an_upstream_error(language: str, name: str, odd: Any) -> None:
    translator: Any = TRANSLATORS[language]
    with pytest.raises(UpstreamError):
        translator.embed_response({name: odd}, memo())


@pytest.mark.parametrize(
    "odd", ["x", 5, [5], ["x"], [{"content": "x"}], [{"content": {"parts": "x"}}], [{"content": {"parts": [5]}}]]
)
def test_geminis_own_answer_of_another_shape_is_an_upstream_error(odd: Any) -> None:
    gemini: Any = TRANSLATORS["gemini"]
    answer = {"candidates": odd}
    with pytest.raises(UpstreamError):
        answers.read(gemini.response(answer, memo()), answers.Reading())
    with pytest.raises(UpstreamError):
        for chunk in gemini.Stream(memo()).feed(Frame(json.dumps(answer).encode(), "")):
            answers.read(chunk, answers.Reading())
