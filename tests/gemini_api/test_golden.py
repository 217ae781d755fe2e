"""One Gemini request in every language: requests, answers and streams as files a reviewer can read (see golden/README.md)."""

from __future__ import annotations

import base64
import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gemini_api import signatures, wire
from gemini_api.errors import InvalidArgument
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Memo, Target
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Frame, SSEDecoder

Json = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "gemini": "gemini-3.1-pro-preview",
    "chat_completions": "gpt-4o",
    "responses": "gpt-6.1-sol",
    "anthropic_messages": "claude-sonnet-4-5",
    "bedrock_converse": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
}
PROMPT_TOKENS = 7  # what the door estimates, in these cases
KEY = b"the golden cases' own key, 32 by"
_MADE_UP = re.compile(r"\bcall_[0-9a-f]{24}\b")


@pytest.fixture(autouse=True)
def _fixed_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_key", KEY)


def cases(kind: str) -> list[Any]:
    """Every (folder, language) that has a file of this kind."""
    found = []
    for path in sorted(GOLDEN.glob(f"*/*.{kind}")):
        language = path.name.split(".")[0]
        found.append(pytest.param(path.parent, language, id=f"{path.parent.name}-{language}"))
    return found


def both(kind: str, other: str) -> list[Any]:
    """Every (folder, language) that has files of both kinds."""
    return [case for case in cases(kind) if (case.values[0] / f"{case.values[1]}.{other}").exists()]


def read(folder: Path, name: str, otherwise: Any = None) -> Any:
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else otherwise


def target(folder: Path, language: str, *, stream: bool = False) -> Target:
    fields = read(folder, f"{language}.target.json", {})
    return Target(**{"model": MODELS[language], "scope": "scope", "tenant": "tenant", "stream": stream} | fields)


def memo(folder: Path, language: str, *, stream: bool = False) -> Memo:
    body = wire.normalise(read(folder, "request.json"))
    found = TRANSLATORS[language].request(body, target(folder, language, stream=stream)).memo
    found.prompt_tokens = PROMPT_TOKENS
    return found


def settled(value: Any) -> Any:
    """Without what is made up anew in each run."""
    text = _MADE_UP.sub("call_RANDOM", json.dumps(value, ensure_ascii=False))
    return _without_made_up_response_ids(json.loads(text))


def _without_made_up_response_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_made_up_response_ids(each) for each in value]
    if isinstance(value, dict) and re.fullmatch(r"[\w-]{22}", str(value.get("responseId", ""))):
        return {**value, "responseId": "RANDOM"}
    return value


def merged(chunks: list[Json]) -> Json:
    """A stream's chunks as one answer, as a client adds them up."""
    answer: Json = {}
    candidates: dict[int, Json] = {}
    for chunk in chunks:
        answer |= {name: value for name, value in chunk.items() if name != "candidates"}
        for candidate in chunk.get("candidates", ()):
            into = candidates.setdefault(candidate["index"], {"content": {"role": "model", "parts": []}})
            for part in candidate["content"]["parts"]:
                _add(into["content"]["parts"], part)
            into |= {name: value for name, value in candidate.items() if name != "content"}
    if candidates:
        answer["candidates"] = [candidates[index] for index in sorted(candidates)]
        for candidate in answer["candidates"]:
            parts = candidate["content"]["parts"]
            candidate["content"]["parts"] = [part for part in parts if part != {"text": ""}] or [{"text": ""}]
    return answer


def _add(parts: list[Json], part: Json) -> None:
    last = parts[-1] if parts else {}
    same_kind = "text" in part and "text" in last and part.get("thought") == last.get("thought")
    if same_kind and "thoughtSignature" not in part:
        last["text"] += part["text"]
    else:
        parts.append(dict(part))


def frames(folder: Path, language: str) -> list[Frame]:
    if (spelled := read(folder, f"{language}.frames.json")) is not None:
        return [
            Frame(json.dumps(each["data"]).encode(), each.get("event", ""), each.get("exception", False))
            for each in spelled
        ]
    return decoded([(folder / f"{language}.stream.txt").read_bytes()])


def decoded(pieces: list[bytes]) -> list[Frame]:
    decoder = SSEDecoder()
    return [frame for piece in pieces for frame in decoder.feed(piece)] + decoder.finish()


def streamed(given: list[Frame], known: Memo, language: str) -> list[Json]:
    stream = TRANSLATORS[language].Stream(known)
    chunks: list[Json] = []
    for frame in given:
        chunks += stream.feed(frame)
        if stream.ended:
            break
    return chunks + stream.finish()


@pytest.mark.parametrize(("folder", "language"), cases("request.json"))
def test_the_request_is_written_in_the_vendors_words_and_every_loss_is_named(folder: Path, language: str) -> None:
    body = wire.normalise(read(folder, "request.json"))
    before = copy.deepcopy(body)
    letter = TRANSLATORS[language].request(body, target(folder, language))
    assert json.loads(json.dumps(letter.payload)) == read(folder, f"{language}.request.json")
    assert list(letter.dropped) == read(folder, f"{language}.dropped.json", [])
    assert body == before, "a translator must not change what a retry will read again"


@pytest.mark.parametrize(("folder", "language"), cases("request.json"))
def test_the_same_request_gives_the_same_letter_twice(folder: Path, language: str) -> None:
    letters = [
        TRANSLATORS[language].request(wire.normalise(read(folder, "request.json")), target(folder, language))
        for _ in "ab"
    ]
    assert letters[0].payload == letters[1].payload


@pytest.mark.parametrize(("folder", "language"), cases("dropped.json"))
def test_a_strict_key_hears_a_400_that_names_the_first_loss(folder: Path, language: str) -> None:
    fields = read(folder, f"{language}.target.json", {})
    strict = Target(**{"model": MODELS[language], "scope": "scope", "tenant": "tenant"} | fields | {"strict": True})
    with pytest.raises(InvalidArgument) as refused:
        TRANSLATORS[language].request(wire.normalise(read(folder, "request.json")), strict)
    assert refused.value.field == read(folder, f"{language}.dropped.json")[0]
    assert refused.value.field in str(refused.value)


@pytest.mark.parametrize(("folder", "language"), cases("refused.json"))
def test_what_cannot_be_said_is_refused_before_anything_is_sent(folder: Path, language: str) -> None:
    expected = read(folder, f"{language}.refused.json")
    with pytest.raises(InvalidArgument) as refused:
        TRANSLATORS[language].request(wire.normalise(read(folder, "request.json")), target(folder, language))
    assert refused.value.field == expected["field"]
    assert expected["message"] in str(refused.value)


@pytest.mark.parametrize(("folder", "language"), cases("response.json"))
def test_the_answer_is_read_as_gemini(folder: Path, language: str) -> None:
    given = read(folder, f"{language}.response.json")
    before = copy.deepcopy(given)
    answer = TRANSLATORS[language].response(given, memo(folder, language))
    assert settled(answer) == read(folder, f"{language}.expected.json")
    assert given == before


@pytest.mark.parametrize(("folder", "language"), cases("chunks.json"))
def test_the_stream_is_read_chunk_by_chunk(folder: Path, language: str) -> None:
    chunks = streamed(frames(folder, language), memo(folder, language, stream=True), language)
    assert settled(chunks) == read(folder, f"{language}.chunks.json")
    for chunk in chunks:
        if "candidates" in chunk:
            assert all(part for part in chunk["candidates"][0]["content"]["parts"])
            assert chunk["candidates"][0]["content"]["parts"]
    if "candidates" in chunks[-1]:
        assert "finishReason" in chunks[-1]["candidates"][0]
        assert "usageMetadata" in chunks[-1]


@pytest.mark.parametrize(("folder", "language"), both("chunks.json", "expected.json"))
def test_stream_and_unary_answer_say_the_same(folder: Path, language: str) -> None:
    expected = read(folder, f"{language}.expected.json")
    chunks = streamed(frames(folder, language), memo(folder, language, stream=True), language)
    assert settled(merged(chunks)) == merged([expected])


@pytest.mark.parametrize(("folder", "language"), cases("stream.txt"))
def test_no_cut_of_the_network_changes_the_chunks(folder: Path, language: str) -> None:
    data = (folder / f"{language}.stream.txt").read_bytes()
    known = memo(folder, language, stream=True)
    whole = decoded([data])
    apart = len(data) // 8
    for first in range(1, apart + 1):  # every place is cut once: eight far from each other at a time
        cuts = [0, *range(first, len(data), apart), len(data)]
        assert decoded([data[start:end] for start, end in pairwise(cuts)]) == whole
    byte_by_byte = [data[at : at + 1] for at in range(len(data))]
    chunks = streamed(decoded(byte_by_byte), known, language)
    assert settled(chunks) == read(folder, f"{language}.chunks.json")
    crlf = data.replace(b"\n", b"\r\n")
    assert settled(streamed(decoded([crlf]), known, language)) == read(folder, f"{language}.chunks.json")


@pytest.mark.parametrize(("folder", "language"), cases("stream.txt"))
def test_a_stream_that_breaks_off_is_never_a_finished_answer(folder: Path, language: str) -> None:
    """Cut after any frame: the answer is complete, or it is an error; never a shorter answer that claims to be whole."""
    known = memo(folder, language, stream=True)
    all_of_it = frames(folder, language)
    whole = settled(merged(streamed(all_of_it, known, language)))
    for count in range(len(all_of_it)):
        try:
            chunks = streamed(all_of_it[:count], known, language)
        except UpstreamError as trouble:
            assert trouble.kind in ("cut", "protocol")
            continue
        cut_short = settled(merged(chunks))
        if "candidates" in whole:
            assert [each["content"] for each in cut_short["candidates"]] == [
                each["content"] for each in whole["candidates"]
            ]


@pytest.mark.parametrize(("folder", "language"), cases("refusal.json"))
def test_a_refusal_is_understood(folder: Path, language: str) -> None:
    given, expected = read(folder, f"{language}.refusal.json"), read(folder, f"{language}.meant.json")
    body = given["body"] if isinstance(given["body"], str) else json.dumps(given["body"])
    refusal = UpstreamRefusal(given["status"], given.get("headers", {}), body.encode())
    meant = TRANSLATORS[language].error(refusal, memo(folder, language))
    if "answer" in expected:
        assert settled(meant) == expected["answer"]
        return
    assert isinstance(meant, UpstreamError)
    for name, value in expected.items():
        assert getattr(meant, name) == value, name


def test_signatures_in_the_cases_are_base64() -> None:
    """The Python SDK drops a whole answer whose thoughtSignature is not base64."""
    texts = [path.read_text() for path in GOLDEN.glob("*/*.json")]
    signatures = re.findall(r'"thoughtSignature": ?"([^"]+)"', "".join(texts))
    assert len(signatures) > 10
    for signature in signatures:
        assert base64.b64decode(signature, validate=True), signature
