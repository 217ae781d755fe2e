"""Testing a connection tells what happened in one clean sentence."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from routing import upstream
from routing.probe import redact, test_connection
from tests.routing.servers import Seen, Wire, answer, deployment, raw_server


@pytest.fixture(autouse=True)
async def closed_afterwards() -> AsyncIterator[None]:
    yield
    await upstream.close()


async def probe(raw: bytes) -> tuple[bool, int, str]:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(raw)
        wire.writer.close()

    async with raw_server(script) as server:
        found = await test_connection(
            deployment(server.url, credential={"api_key": "a-secret-of-the-operator"}), {"model": "m"}
        )
    assert found.latency_ms >= 0
    return found.ok, found.status, found.message


async def test_a_connection_that_answers_is_fine() -> None:
    assert await probe(answer(b"{}")) == (True, 200, "The upstream answered.")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "No such model."}}, "The upstream answered 404: No such model."),
        ([{"error": {"message": "No such model"}}], "The upstream answered 404: No such model."),
        ({"error": "No such model"}, "The upstream answered 404: No such model."),
        ({"message": "No such model"}, "The upstream answered 404: No such model."),
        ({"detail": [1]}, "The upstream answered 404."),
        ("<html>", "The upstream answered 404."),
        ({"error": {"message": "key a-secret-of-the-operator\n\tis bad"}}, "The upstream answered 404: key •••• is bad."),
        ({"error": {"message": "Bearer abcdef0123456789 or sk-proj-abc123456789 is bad"}}, "The upstream answered 404: •••• or •••• is bad."),
    ],
)  # fmt: skip
async def test_a_refusal_is_told_in_the_vendors_words_without_secrets(body: object, message: str) -> None:
    assert await probe(answer(json.dumps(body).encode(), "404 Not Found")) == (False, 404, message)


async def test_no_answer_is_told_too() -> None:
    ok, status, message = await probe(b"")
    assert (ok, status) == (False, 0)
    assert message == "The upstream closed the connection without an answer."
    ok, status, message = await probe(answer(b"", "302 Found", "location: http://x/\r\n"))
    assert (ok, status) == (False, 302)


def test_long_secrets_inside_others_are_taken_out_whole() -> None:
    assert redact("x abcdefgh-long y", {"a": "abcdefgh", "b": "abcdefgh-long"}) == "x •••• y"
