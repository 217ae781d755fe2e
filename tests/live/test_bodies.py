"""Keys that log bodies, over the wire: what is kept of a call, whatever became of it, and that others keep nothing."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.live.world import World, recorded, saying
from usage import body_store
from usage.body_store import Body
from usage.models import StoredBody


def rows(world: World) -> dict[str, StoredBody]:
    """Every stored body there is, by its call, read past the product."""
    query = "SELECT call_id, organization_id, sealed FROM usage_storedbody"
    if url := world.gateway.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            found = connection.execute(query.encode()).fetchall()
    else:
        with sqlite3.connect(world.gateway.data_dir / "gatehouse.sqlite3") as database:
            found = database.execute(query).fetchall()
        database.close()
    made = [StoredBody(call_id=StoredBody(call_id=row[0]).pk, organization_id=row[1], sealed=row[2]) for row in found]
    return {str(StoredBody._meta.pk.to_python(row.call_id)): row for row in made}


def stored(world: World, call_id: str) -> Body:
    """What was kept of this call, once it has been brought in."""
    row: list[StoredBody] = []

    def there() -> bool:
        row[:] = [found for found in [rows(world).get(call_id)] if found]
        return bool(row)

    wait_until(there)
    row[0].call_id = StoredBody._meta.pk.to_python(row[0].call_id)
    return body_store.opened(row[0])


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def everywhere(world: World) -> bytes:
    """All that stands on the gateway's own disk."""
    return b"".join(path.read_bytes() for path in world.gateway.data_dir.rglob("*") if path.is_file())


def test_a_unary_call_is_kept_as_it_was_sent_and_answered_and_nowhere_in_the_clear(world: World) -> None:
    body = saying("an unheard-of walrus", labels={"spaced": " as   it came "})
    answer = world.ask("openai", body=body, key="logged")
    found = stored(world, answer.headers["x-request-id"])
    assert json.loads(found.request) == body
    assert found.answer == answer.text
    assert b"unheard-of walrus" not in everywhere(world)
    assert world.keys["logged"] not in found.request


@pytest.mark.parametrize("alt", ["?alt=sse", ""])
def test_a_streamed_answer_is_kept_as_the_client_got_it(world: World, alt: str) -> None:
    answer = world.ask("gemini", f"streamGenerateContent{alt}", saying("[[long:4]]"), key="logged")
    found = stored(world, answer.headers["x-request-id"])
    assert found.answer == answer.text
    assert found.answer_whole


def test_of_a_stream_that_its_client_left_what_had_been_sent_is_kept(world: World) -> None:
    headers = {"x-goog-api-key": world.keys["logged"]}
    url = "/v1beta/models/openai:streamGenerateContent?alt=sse"
    with world.http.stream("POST", url, json=saying("[[long:30]] [[pace:0.2]]"), headers=headers) as answer:
        first = next(answer.iter_bytes())
        call_id = answer.headers["x-request-id"]
    found = stored(world, call_id)
    assert found.answer.startswith(first.decode())
    assert "finishReason" not in found.answer
    assert recorded(world.gateway, [call_id])[call_id]["http_status"] == 499


def test_of_a_failed_call_the_error_is_kept_as_it_was_told(world: World) -> None:
    answer = world.ask("openai", body=saying("[[error:400]]"), key="logged")
    assert answer.status_code == 400
    found = stored(world, answer.headers["x-request-id"])
    assert json.loads(found.answer) == answer.json()
    assert "[[error:400]]" in found.request


def test_a_request_nobody_can_read_is_kept_too(world: World) -> None:
    url, headers = "/v1beta/models/openai:generateContent", {"x-goog-api-key": world.keys["logged"]}
    answer = world.http.post(url, content=b'{"contents": [', headers=headers)
    assert stored(world, answer.headers["x-request-id"]).request == '{"contents": ['


def test_vectors_are_kept_with_what_they_stand_for(world: World) -> None:
    body = {"content": {"parts": [{"text": "a rare word"}]}}
    answer = world.ask("vectors-openai", "embedContent", body, key="logged")
    found = stored(world, answer.headers["x-request-id"])
    assert "a rare word" in found.request
    assert found.answer == answer.text


def test_other_keys_and_refused_calls_leave_nothing(world: World) -> None:
    nothing = [
        world.ask("openai", body=saying("of a key without the switch")),
        world.ask("openai", "streamGenerateContent?alt=sse", saying("the same"), key="ci"),
        world.ask("no-such-model", key="logged"),
        world.ask("openai", "countTokens", key="logged"),
    ]
    kept = world.ask("openai", body=saying("the last one"), key="logged").headers["x-request-id"]
    recorded(world.gateway, [answer.headers["x-request-id"] for answer in nothing])
    stored(world, kept)
    found = rows(world)
    assert [answer.status_code for answer in nothing] == [200, 200, 404, 200]
    assert not [answer for answer in nothing if answer.headers["x-request-id"] in found]
