"""Answers from strangers: whatever an upstream sends, a translator says Gemini or raises UpstreamError, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
