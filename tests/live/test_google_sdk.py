"""google-genai as people use it, sync and async, old path and new, on a Gemini and on an OpenAI deployment alike."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from tests.live.conformance import City, ended, get_weather, said, well_made
from tests.live.world import World, embedder, model_for, recorded, saying, trigger
from tests.upstreams.test_google_sdk import BOTH_CITIES, PIXEL

pytestmark = pytest.mark.live

VERSIONS = ("v1", "v1beta", "v1alpha")


@pytest.fixture(params=["gemini", "openai"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=VERSIONS)
async def client(request: pytest.FixtureRequest, world: World) -> AsyncIterator[genai.client.AsyncClient]:
    options = types.HttpOptions(base_url=f"{world.url}/", api_version=request.param)
    async with genai.Client(api_key=world.keys["ci"], http_options=options).aio as made:
        yield made


async def test_an_async_client_gets_text_streams_and_chats(client: genai.client.AsyncClient, model: str) -> None:
    answer = await client.models.generate_content(model=model, contents="Good morning")
    assert answer.text == "You said: Good morning."
    ended(answer)
    stream = await client.models.generate_content_stream(model=f"models/{model}", contents="one two three")
    chunks = [chunk async for chunk in stream]
    assert said(chunks) == "You said: one two three." and len(chunks) > 2
    well_made(chunks)
    chat = client.chats.create(model=model)
    async for _ in await chat.send_message_stream("First things first"):
        pass
    assert (await chat.send_message("[[recall]]")).text == "You began with: First things first"


async def test_an_async_client_gets_tools_structure_and_images(client: genai.client.AsyncClient, model: str) -> None:
    chat = client.chats.create(model=model, config=types.GenerateContentConfig(tools=[get_weather]))
    assert (await chat.send_message(BOTH_CITIES)).text == "The tools said: 18 C in Rome; 18 C in Oslo"
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=list[City])
    answer = await client.models.generate_content(model=model, contents="Cities", config=config)
    assert answer.parsed == [City(name="sample", people=1)]
    image = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    answer = await client.models.generate_content(model=model, contents=[image, "Look"])
    assert answer.text == "You said: Look. I see image/png."


async def test_an_async_client_counts_lists_and_embeds(client: genai.client.AsyncClient, model: str) -> None:
    assert ((await client.models.count_tokens(model=model, contents="a b c")).total_tokens or 0) >= 3
    assert (await client.models.get(model=model)).name == f"models/{model}"
    names = [each.name async for each in await client.models.list(config={"page_size": 40})]
    assert f"models/{model}" in names and len(names) == len(set(names)) > 40
    embedded = await client.models.embed_content(model=embedder(model), contents=["a", "b"])
    assert len(embedded.embeddings or []) == 2


async def test_an_async_client_raises_errors_of_the_right_class(
    world: World, client: genai.client.AsyncClient, model: str
) -> None:
    with pytest.raises(errors.ClientError) as unknown:
        await client.models.generate_content(model="no-such-model", contents="Hi")
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    with pytest.raises(errors.ClientError) as wrong:
        await client.models.generate_content(model=model, contents=trigger("400"))
    assert (wrong.value.code, wrong.value.status) == (400, "INVALID_ARGUMENT")
    heard = ""
    with pytest.raises(errors.APIError) as broken:
        async for chunk in await client.models.generate_content_stream(
            model=world.well(model_for(model, "midcut")), contents=trigger("midcut")
        ):
            heard += chunk.text or ""
    assert (broken.value.code, broken.value.status) == (503, "UNAVAILABLE")
    assert heard.split() == ["word0", "word1"]


@pytest.mark.parametrize("key", ["revoked", "expired", "disabled", "nobody"])
def test_a_key_that_is_no_good_is_a_client_error(world: World, key: str) -> None:
    secret = world.keys.get(key, "AIza-nobody")
    with (
        genai.Client(api_key=secret, http_options={"base_url": world.url}) as client,
        pytest.raises(errors.ClientError) as refused,
    ):
        client.models.generate_content(model="gemini", contents="Hi")
    wanted = (403, "PERMISSION_DENIED") if key == "disabled" else (400, "INVALID_ARGUMENT")
    assert (refused.value.code, refused.value.status) == wanted


@pytest.mark.parametrize("how", ["key", "project"])
def test_a_client_in_vertex_mode_is_served_too(world: World, model: str, how: str) -> None:
    who: dict[str, Any] = {"api_key": world.keys["ci"]}
    if how == "project":
        token = Credentials(token=world.keys["ci"])  # type: ignore[no-untyped-call]  # google-auth has no types
        who = {"project": "p1", "location": "us-central1", "credentials": token}
    with genai.Client(vertexai=True, http_options={"base_url": world.url}, **who) as client:
        assert client.models.generate_content(model=model, contents="Hi").text == "You said: Hi."
        chunks = list(client.models.generate_content_stream(model=model, contents="Hi"))
        assert said(chunks) == "You said: Hi."
        chat = client.chats.create(model=model, config=types.GenerateContentConfig(tools=[get_weather]))
        assert chat.send_message(BOTH_CITIES).text == "The tools said: 18 C in Rome; 18 C in Oslo"
        config = types.CountTokensConfig(system_instruction="Be brief.")
        assert (client.models.count_tokens(model=model, contents="a b c", config=config).total_tokens or 0) >= 3


# ── what leaves, byte by byte ──


class Listening:
    """A streamed call on a socket of its own, read as it comes: `with Listening(...) as listening`."""

    def __init__(self, world: World, model: str, prompt: str, query: str = "") -> None:
        body = json.dumps(saying(prompt)).encode()
        head = (
            f"POST /v1beta/models/{model}:streamGenerateContent{query} HTTP/1.1\r\nhost: gateway\r\n"
            f"x-goog-api-key: {world.keys['ci']}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.socket = socket.create_connection(("127.0.0.1", world.gateway.port), timeout=30)
        self.socket.sendall(head.encode() + body)
        self.received = b""

    def until(self, what: bytes) -> bytes:
        """Everything received so far, once `what` is among it."""
        while what not in self.received:
            piece = self.socket.recv(65536)
            assert piece, self.received
            self.received += piece
        return self.received

    def body(self) -> bytes:
        """The whole body, its chunks joined."""
        head = self.until(b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        assert b"transfer-encoding: chunked" in head.lower(), self.received
        rest = self.until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]
        joined = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            joined += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return joined

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize("query", ["?alt=sse", ""])
def test_the_first_chunk_leaves_before_the_second_arrives(world: World, model: str, query: str) -> None:
    """The upstream waits a minute between two pieces; and when the client has left, it is hung up on."""
    vendor = world.vendor(model)
    with Listening(world, model, "[[long:3]] [[pace:60]]", query) as listening:
        begun = listening.until(b"word0")
        assert b"word1" not in begun
        assert not vendor.billed
    eventually(lambda: vendor.billed and vendor.requests[-1].left)
    assert not vendor.billed[-1].complete


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_events_are_data_lines_and_blank_lines_and_nothing_else(world: World, model: str) -> None:
    with Listening(world, model, "[[text:a\u2028b\u0085c]]", "?alt=sse") as listening:
        body = listening.body()
    assert b"content-type: text/event-stream" in listening.received.lower()
    events = body.split(b"\n\n")
    assert events.pop() == b""
    assert all(event.startswith(b"data: {") and b"\n" not in event and b"\r" not in event for event in events)
    assert all(event.decode().splitlines() == [event.decode()] for event in events), "no reader may break a line here"
    texts = [json.loads(event[6:])["candidates"][0]["content"]["parts"][0]["text"] for event in events]
    assert "".join(texts) == "a\u2028b\u0085c"


def test_an_array_is_one_json_value_in_the_end(world: World, model: str) -> None:
    with Listening(world, model, "one two three") as listening:
        chunks = json.loads(listening.body())
    assert b"content-type: application/json; charset=utf-8" in listening.received.lower()
    assert (
        "".join(each["candidates"][0]["content"]["parts"][0]["text"] for each in chunks) == "You said: one two three."
    )


def test_an_error_in_the_middle_is_told_twice_and_recorded(world: World, model: str) -> None:
    """As an event and bare, in a write of its own: each form alone is missed by some client."""
    with Listening(world, world.well(model_for(model, "midbreak")), trigger("midbreak"), "?alt=sse") as listening:
        *_, event, bare = listening.body().split(b"\n\n")
    assert event.startswith(b'data: {"error":{"code":5')
    assert json.loads(event[6:]) == json.loads(bare)
    last_write = listening.received.rpartition(b"\r\n0\r\n\r\n")[0].rpartition(b"\r\n")[2]
    assert last_write == bare
    call_id = listening.received.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    [row] = recorded(world.gateway, [call_id]).values()
    error = json.loads(bare)["error"]
    assert (row["http_status"], row["status"]) == (error["code"], error["status"])
    assert "cut" in row["flags"] and row["output_tokens"] > 0


def test_an_error_in_the_middle_of_an_array_is_its_last_element(world: World, model: str) -> None:
    with Listening(world, world.well(model_for(model, "midcut")), trigger("midcut")) as listening:
        *chunks, last = json.loads(listening.body())
    assert len(chunks) == 2
    assert (last["error"]["code"], last["error"]["status"]) == (503, "UNAVAILABLE")


def test_a_stream_that_stalls_ends_with_an_error(world: World, model: str) -> None:
    with Listening(world, f"{model}-stall", trigger("stall"), "?alt=sse") as listening:
        *_, bare = listening.body().split(b"\n\n")
    assert json.loads(bare)["error"]["status"] == "DEADLINE_EXCEEDED"


def test_a_clients_own_deadline_ends_its_call(world: World, model: str) -> None:
    answer = world.ask(model, body=saying("[[hang]]"), headers={"x-server-timeout": "1"})
    error = answer.json()["error"]
    assert (answer.status_code, error["status"]) == (504, "DEADLINE_EXCEEDED")
