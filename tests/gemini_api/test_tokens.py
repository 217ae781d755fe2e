"""Counting: reference numbers, hostile texts, and that every kind of content costs something."""

from __future__ import annotations

import base64
import struct

import pytest

from gemini_api import images, tokens
from gemini_api.translators import capabilities

REFERENCE = [
    ("", 0),
    ("hello world", 2),
    ("Hello, world!", 4),
    ("你好，世界", 3),
    ("Привет, мир", 4),
    ("<|endoftext|>", 7),
    ('{"a":1}', 5),
    ("function get_weather(city: string)", 7),
    ("a" * 100, 13),
]


@pytest.mark.parametrize(("text", "expected"), REFERENCE)
def test_counts_agree_with_the_reference(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


@pytest.mark.parametrize("text", [" " * 300_000, "\ud800", "<|endofprompt|>" * 3])
def test_hostile_texts_are_counted_like_any_other(text: str) -> None:
    assert tokens.count(text) > 0


def test_system_and_tools_and_schemas_are_part_of_a_request() -> None:
    plain = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    full = {
        **plain,
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": {"type": "OBJECT"}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "generationConfig": {"responseSchema": {"type": "OBJECT"}},
    }
    assert tokens.estimate(plain) == {"TEXT": 3 + 3 + 1}
    assert tokens.estimate(full)["TEXT"] > tokens.estimate(plain)["TEXT"] + 12


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(640, 480), (640, 480)),
        (b"GIF89a" + struct.pack("<HH", 3, 4) + b"\0" * 10, (3, 4)),
        (b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08\x00\x10\x00\x20\x03" + b"\0" * 9, (32, 16)),
        (b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + (99).to_bytes(3, "little") + (49).to_bytes(3, "little"), (100, 50)),
        (b"not a picture", None),
        (b"\xff\xd8\xff", None),
    ],
)
def test_a_pictures_size_is_read_from_its_head(data: bytes, expected: tuple[int, int] | None) -> None:
    assert images.size(data) == expected


@pytest.mark.parametrize(
    ("mime", "data", "modality"),
    [
        ("image/png", png(2000, 800), "IMAGE"),
        ("image/png", b"broken", "IMAGE"),
        ("audio/wav", b"x" * 32_000, "AUDIO"),
        ("video/mp4", b"x" * 1000, "VIDEO"),
        ("application/pdf", b"%PDF /Type /Page /Type /Page /Type /Pages", "DOCUMENT"),
        ("text/plain", b"hello world", "DOCUMENT"),
    ],
)
def test_no_kind_of_media_is_free(mime: str, data: bytes, modality: str) -> None:
    part = {"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}}
    assert tokens.estimate({"contents": [{"parts": [part]}]})[modality] > 0


def test_thoughts_in_the_history_are_not_sent_and_not_counted() -> None:
    said = {"contents": [{"parts": [{"text": "a long thought", "thought": True}]}]}
    assert tokens.estimate(said) == {"TEXT": 3 + 3}


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("gpt-4o", 1.0),
        ("openai/o3", 1.0),
        ("gemini-2.5-flash", 1.0),
        ("models/gemini-3-pro", 1.0),
        ("claude-sonnet-4-5", 1.15),
        ("claude-sonnet-4-5@20250929", 1.15),
        ("us.anthropic.claude-opus-4-6-v1:0", 1.15),
        ("claude-opus-4-7", 1.35),
        ("global.anthropic.claude-opus-5-5-v1:0", 1.35),
        ("amazon.nova-pro-v1:0", 1.1),
        ("qwen3-32b", 1.1),
    ],
)
def test_a_models_family_says_how_many_tokens_it_makes_of_ours(model: str, factor: float) -> None:
    assert capabilities.token_factor(model) == factor


def test_only_words_are_scaled_and_nothing_becomes_less() -> None:
    counted = {"TEXT": 10, "DOCUMENT": 3, "IMAGE": 258}
    assert tokens.scaled(counted, 1.0) == counted
    assert tokens.scaled(counted, 1.15) == {"TEXT": 12, "DOCUMENT": 4, "IMAGE": 258}


@pytest.mark.parametrize("spelling", [("inlineData", "mimeType"), ("inline_data", "mime_type")])
@pytest.mark.parametrize(
    ("mime", "most"), [("image/png", 1_100), ("audio/mp3", 1_700), ("video/mp4", 300), ("application/pdf", 1_400)]
)
def test_a_guess_takes_media_for_what_they_cost_and_not_for_the_length_of_their_base64(
    spelling: tuple[str, str], mime: str, most: int
) -> None:
    data = base64.b64encode(bytes(200_000)).decode()
    body = {"contents": [{"parts": [{"text": "Hi"}, {spelling[0]: {spelling[1]: mime, "data": data}}]}]}
    assert 100 < tokens.guess_request(body, len(data) + 100) < most


@pytest.mark.parametrize(
    "contents", [None, "text", 5, [None, 5, "x"], {"parts": 7}, [{"parts": [None, {"inlineData": 3}]}]]
)
def test_a_guess_takes_whatever_a_stranger_sends(contents: object) -> None:
    assert tokens.guess_request({"contents": contents}, 40_000) == 10_000
