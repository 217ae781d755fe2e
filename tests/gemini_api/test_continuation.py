"""A continued answer goes back to who began it; a token nobody knows goes anywhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gemini_api import answers, continuation
from gemini_api.answers import Reading


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(continuation, "_made_by", {})
    monkeypatch.setattr("gemini_api.continuation.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_token_is_known_in_either_spelling_of_field_and_base64() -> None:
    continuation.remember("ab+/cg==", "d1")
    for body in (
        {"continuationToken": "ab+/cg=="},
        {"continuation_token": "ab-_cg"},
    ):
        assert continuation.made_by(body) == "d1"
    strangers: list[dict[str, Any]] = [
        {},
        {"continuationToken": "other"},
        {"continuationToken": 5},
        {"continuationToken": ""},
    ]
    for body in strangers:
        assert continuation.made_by(body) == ""


def test_tokens_are_forgotten_after_an_hour_and_the_oldest_first(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuation, "MOST", 2)
    for token in ("a", "b", "c"):
        continuation.remember(token, token.upper())
    assert [continuation.made_by({"continuationToken": token}) for token in "abc"] == ["", "B", "C"]
    clock[0] += continuation.KEPT
    assert continuation.made_by({"continuationToken": "c"}) == ""


def test_only_an_answer_that_goes_on_has_a_token() -> None:
    def said(reason: str) -> str:
        reading = Reading()
        answers.read({"candidates": [{"finishReason": reason}], "continuationToken": "t"}, reading)
        return reading.continuation

    assert (said("CONTINUATION"), said("STOP")) == ("t", "")
