"""Whole tool loops against the strict upstreams, in this process: every letter is one the vendor takes, and reasoning survives."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from gemini_api import signatures, wire
from gemini_api.question import without_signatures
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Letter, Target
from gemini_api.translators.names import Names
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import EventStreamDecoder, SSEDecoder
from tests.gemini_api.languages import parts
from tests.upstreams.anthropic import Anthropic
from tests.upstreams.asgi import Reply, Request, Upstream
from tests.upstreams.bedrock import Bedrock
from tests.upstreams.responses import OpenAIResponses
from tests.upstreams.script import Refusal

Json = dict[str, Any]

UPSTREAMS: dict[str, type[Upstream]] = {
    "responses": OpenAIResponses,
    "anthropic_messages": Anthropic,
    "bedrock_converse": Bedrock,
}
THINKERS = [
    ("responses", "gpt-6.1-sol"),
    ("responses", "gpt-5.6"),
    ("anthropic_messages", "claude-opus-5-5"),
    ("anthropic_messages", "claude-sonnet-4-6"),
    ("anthropic_messages", "claude-sonnet-4-5"),
    ("bedrock_converse", "us.anthropic.claude-opus-4-7-v1:0"),
    ("bedrock_converse", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
]
OTHERS = [
    ("responses", "gpt-4o"),
    ("anthropic_messages", "claude-3-5-haiku"),
    ("bedrock_converse", "us.amazon.nova-pro-v1:0"),
    ("bedrock_converse", "meta.llama3-3-70b-instruct-v1:0"),
]
# As gemini-cli asks on every turn.
CONFIG = {
    "temperature": 1,
    "topP": 0.95,
    "topK": 64,
    "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "HIGH"},
}
READ = Names(64).there("read.file")  # a name that has to be written otherwise
TOOLS = [
    {
        "functionDeclarations": [
            {
                "name": "read.file",
                "description": "Reads.",
                "parameters": {"type": "OBJECT", "properties": {"path": {"type": "STRING"}}, "required": ["path"]},
            },
            {"name": "now"},
        ]
    }
]


def path_of(language: str, model: str, stream: bool) -> str:
    if language == "bedrock_converse":
        return f"/model/{model.replace(':', '%3A')}/converse{'-stream' if stream else ''}"
    return {"responses": "/v1/responses", "anthropic_messages": "/v1/messages"}[language]


def written(language: str, model: str, body: Json, *, stream: bool, sealed: bool = True) -> Letter:
    normal = wire.normalise(body)
    target = Target(model, stream=stream, scope="scope", tenant="tenant")
    return TRANSLATORS[language].request(normal if sealed else without_signatures(normal), target)


async def answered(language: str, model: str, letter: Letter, *, stream: bool) -> list[Json]:
    """The upstream's answer, read; raises what the translator makes of a refusal."""
    vendor, translator = UPSTREAMS[language](), TRANSLATORS[language]
    path = path_of(language, model, stream)
    body = json.dumps(letter.payload).encode()
    headers = {"authorization": "Bearer upstream-key", "x-api-key": "upstream-key", "anthropic-version": "2023-06-01"}
    headers |= {"content-type": "application/json", "accept": "application/vnd.amazon.eventstream" if stream else "*/*"}
    vendor.authorize = lambda *given: None  # type: ignore[attr-defined]  # who may ask is the backends' matter
    try:
        answer = await vendor.respond(Request("POST", unquote(path), path, {}, headers, body, json.loads(body)))
    except Refusal as refusal:
        answer = vendor.refuse(refusal)
    if isinstance(answer, Reply):
        text = json.dumps(answer.body).encode()
        if answer.status == 200:
            return [translator.response(json.loads(text), letter.memo)]
        meant = translator.error(UpstreamRefusal(answer.status, answer.headers, text), letter.memo)
        assert isinstance(meant, UpstreamError)
        raise meant
    decoder = EventStreamDecoder() if language == "bedrock_converse" else SSEDecoder()
    reader, chunks = translator.Stream(letter.memo), []
    async for piece in answer.pieces:
        chunks += [chunk for frame in decoder.feed(piece) for chunk in reader.feed(frame)]
    return chunks + [chunk for frame in decoder.finish() for chunk in reader.feed(frame)] + reader.finish()


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize(("language", "model"), [*THINKERS, *OTHERS])
async def test_a_loop_of_parallel_and_later_calls_ends_in_an_answer(language: str, model: str, stream: bool) -> None:
    prompt = (
        f'[[think:I wonder]][[tool:{READ} {{"path":"a"}}]][[tool:now]][[then:{READ} {{"path":"b"}}]][[text:All done]]'
    )
    contents: list[Json] = [{"role": "user", "parts": [{"text": prompt}]}]
    called, sealed = [], []
    for _ in range(3):
        letter = written(
            language, model, {"contents": contents, "tools": TOOLS, "generationConfig": CONFIG}, stream=stream
        )
        sealed.append(letter.sealed)
        chunks = await answered(language, model, letter, stream=stream)
        said = [part for chunk in chunks for part in parts(chunk) if not part.get("thought")]
        calls = [part["functionCall"] for part in said if "functionCall" in part]
        called.append([(call["name"], call["args"]) for call in calls])
        results = [
            {"functionResponse": {"id": call["id"], "name": call["name"], "response": {"output": "x"}}}
            for call in calls
        ]
        contents = [*contents, {"role": "model", "parts": said}, {"role": "user", "parts": results}]
    assert called == [[("read.file", {"path": "a"}), ("now", {})], [("read.file", {"path": "b"})], []]
    assert "".join(part["text"] for part in said) == "All done"
    assert sealed == [False, *([(language, model) in THINKERS] * 2)]
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert chunks[-1]["usageMetadata"]["promptTokenCount"] > 0


async def test_reasoning_that_the_upstream_cannot_read_is_worth_one_try_without_it() -> None:
    blocks = [{"t": "reasoning", "id": "rs_1", "e": "gAAA of another key", "sum": []}]
    signature = signatures.seal(blocks, family="openai", scope="scope", model="gpt-6.1-sol", tenant="tenant")
    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "Go."}]},
            {"role": "model", "parts": [{"functionCall": {"id": "c", "name": "now"}, "thoughtSignature": signature}]},
            {
                "role": "user",
                "parts": [{"functionResponse": {"id": "c", "name": "now", "response": {"output": "noon"}}}],
            },
        ],
        "tools": TOOLS,
    }
    with pytest.raises(UpstreamError) as refused:
        await answered(
            "responses", "gpt-6.1-sol", written("responses", "gpt-6.1-sol", body, stream=False), stream=False
        )
    assert refused.value.drop_field == "thoughtSignature"
    bare = written("responses", "gpt-6.1-sol", body, stream=False, sealed=False)
    assert not bare.sealed
    assert parts((await answered("responses", "gpt-6.1-sol", bare, stream=False))[0])[0]["text"]
