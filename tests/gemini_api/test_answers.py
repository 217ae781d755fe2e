"""What an answer tells the ledger while it passes."""

from __future__ import annotations

from gemini_api import answers
from gemini_api.answers import MEDIA, Reading
from usage.event import Tokens


def test_usage_covers_what_was_said_up_to_it_and_nothing_after() -> None:
    reading = Reading()
    text = {"candidates": [{"content": {"parts": [{"text": "Grüße"}]}}]}
    assert answers.read({**text, "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2}}, reading) == 7
    assert (reading.counted, reading.tokens) == (True, Tokens(prompt=9, candidates=2))
    answers.read(text, reading)
    assert (reading.counted, reading.tokens, reading.size) == (False, Tokens(prompt=9, candidates=2), 14)


def test_a_picture_is_something_said() -> None:
    picture = {"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}}]}
    assert answers.read(picture, Reading()) == MEDIA


def test_a_vendors_word_on_the_prompt_says_nothing_of_the_answer() -> None:
    told = {"promptTokenCount": 28, "cachedContentTokenCount": 20, "candidatesTokenCount": 1, "_cacheWriteTokens": 3}
    assert answers.asked(told) == Tokens(prompt=28, cached=20, cache_write=3)
