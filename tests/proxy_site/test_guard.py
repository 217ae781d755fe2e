"""The guarded protocol on real sockets: what it waits for, what it refuses, and that it leaves good clients alone."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import uvicorn

from proxy_site.guard import GuardedProtocol, Patience

GOOD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Impatient(GuardedProtocol):
    patience: ClassVar[Patience] = Patience(header=0.2, body=0.2, write=0.2, header_bytes=2048, connections=20)
    _open: ClassVar[set[GuardedProtocol]] = set()


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    headers = [(b"content-length", str(len(str(size))).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, http=Impatient, loop="none", lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(0)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def told(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


async def test_a_good_request_is_answered_and_its_connection_kept() -> None:
    async with served(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(GOOD)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(1) == b"0"
        writer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", 408),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX-Large: " + b"x" * 4096 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"NOT HTTP\r\n\r\n", 400),
    ],
    ids=["slow head", "large head", "no host", "two hosts", "foreign target", "rubbish"],
)
async def test_a_bad_head_is_refused_in_googles_shape(sent: bytes, code: int) -> None:
    async with served(echo) as port:
        status, error = told(await talk(port, sent))
        assert (status, error["code"]) == (code, code)
        assert error["message"]


async def test_a_silent_connection_is_closed() -> None:
    async with served(echo) as port:
        assert await talk(port) == b""


async def test_half_a_body_ends_the_connection() -> None:
    async with served(echo) as port:
        assert await talk(port, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf") == b""


async def test_a_client_that_stops_reading_is_let_go() -> None:
    gone = asyncio.Event()

    async def endless(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

        async def pour() -> None:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
                await asyncio.sleep(0)

        pouring = asyncio.create_task(pour())
        while (await receive())["type"] != "http.disconnect":
            pass
        pouring.cancel()
        gone.set()

    async with served(endless) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GOOD)
        await asyncio.wait_for(gone.wait(), 10)  # the guard ends it: nothing else would
        with pytest.raises(ConnectionResetError):  # and the kernel keeps nothing for it
            while await reader.read(65_536):
                pass
        writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the time-out is Linux's own")
async def test_a_client_that_reads_nothing_is_let_go_when_the_kernel_has_taken_the_whole_answer() -> None:
    async def large(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b"x" * 200_000
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    loop = asyncio.get_running_loop()
    async with served(large) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, GOOD)
            async with asyncio.timeout(10):
                while not Impatient._open:  # noqa: ASYNC110 - the guard has no event for it
                    await asyncio.sleep(0.01)
                while Impatient._open:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_more_connections_than_allowed_are_told_to_come_back() -> None:
    async with served(echo) as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        status, error = told(await talk(port, GOOD))
        assert (status, error["status"]) == (503, "UNAVAILABLE")
        for _, writer in held:
            writer.close()
