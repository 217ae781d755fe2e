"""The smallest ASGI an upstream needs: a request with its body, an answer that is whole or a stream, and a record."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.upstreams.script import Billed, Cut, Fault, Refusal, fault_in

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class Request:
    """One request as it arrived. `raw_path` keeps its percent-encoding; `json` is None when the body is not JSON."""

    method: str
    path: str
    raw_path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    json: Any = None
    answered: int = 0  # the status that was sent
    left: bool = False  # the caller went away before the answer was complete


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: Any = None  # bytes as they are, anything else as JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    pieces: AsyncIterator[bytes]
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    cut_into: int = 0  # bytes per network write; 0 writes every piece whole


class Upstream:
    """A vendor. Subclasses write `respond` and `refuse`.

    requests, billed: what it saw and what it would charge for, oldest first. faults: failures for the next requests,
    whatever they ask, in the words of `[[error:...]]` ("503", "429 retry-after=7", "cut").
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.billed: list[Billed] = []
        self.faults: deque[str] = deque()
        self.url = ""  # where it can be reached; set by serve()

    async def respond(self, request: Request) -> Reply | Stream:
        raise NotImplementedError  # every vendor has its paths

    def refuse(self, refusal: Refusal) -> Reply:
        raise NotImplementedError  # every vendor has its error shape

    def wait_until(self, happened: Callable[[], object], seconds: float = 10) -> None:
        """For a test in another thread: until something has happened here. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{type(self).__name__} waited {seconds} seconds in vain")
            time.sleep(0.005)

    def forget(self) -> None:
        self.requests.clear()
        self.billed.clear()
        self.faults.clear()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _live(receive, send)
        request = await _read(scope, receive)
        self.requests.append(request)
        answering = asyncio.create_task(self._answer(request, send))
        leaving = asyncio.create_task(_until_left(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            request.left = True
            answering.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await answering
        except Cut:
            scope["extensions"]["drop"]()  # serve.py's: closes the socket, whatever was or was not sent
            await leaving
        leaving.cancel()
        return None

    async def _answer(self, request: Request, send: Send) -> None:
        answer: Reply | Stream
        try:
            if self.faults:
                raise fault_in(self.faults.popleft())
            answer = await self.respond(request)
        except Refusal as refusal:
            answer = self.refuse(refusal)
        except Fault as fault:
            answer = await self._fail(fault)
        if isinstance(answer, Reply):
            await self._whole(request, answer, send)
        else:
            await self._pieces(request, answer, send)

    async def _fail(self, fault: Fault) -> Reply:
        match fault.flavour:
            case "cut":
                raise Cut
            case "hang":
                await asyncio.Event().wait()
            case "html":
                page = b"<html><head><title>Bad Gateway</title></head><body>nginx</body></html>"
                return Reply(fault.status, page, {"content-type": "text/html"})
            case "garbage":
                return Reply(fault.status, b'{"broken": [1, 2', {"content-type": "application/json"})
            case "nothing":
                return Reply(fault.status, b"")
        return self.refuse(
            Refusal(fault.message, status=fault.status, code=fault.flavour, retry_after=fault.retry_after)
        )

    async def _whole(self, request: Request, reply: Reply, send: Send) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **reply.headers}
        request.answered = reply.status
        await send({"type": "http.response.start", "status": reply.status, "headers": _encoded(headers)})
        await send({"type": "http.response.body", "body": body})

    async def _pieces(self, request: Request, stream: Stream, send: Send) -> None:
        """The head goes out with the first piece, so that a failure before it can still be an answer of its own."""
        started = False

        async def write(data: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                request.answered = 200
                headers = {"content-type": stream.content_type, "cache-control": "no-cache", **stream.headers}
                await send({"type": "http.response.start", "status": 200, "headers": _encoded(headers)})
            size = stream.cut_into or len(data) or 1
            for start in range(0, len(data), size):
                await send({"type": "http.response.body", "body": data[start : start + size], "more_body": True})

        async with aclosing(stream.pieces) as pieces:  # type: ignore[type-var]  # they are all generators
            async for piece in pieces:
                await write(piece)
        await write(b"")
        await send({"type": "http.response.body", "body": b""})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _read(scope: Message, receive: Receive) -> Request:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    raw_path = scope.get("raw_path", scope["path"].encode()).decode().partition("?")[0]
    request = Request(
        method=scope["method"],
        path=unquote(raw_path),
        raw_path=raw_path,
        query=dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
        headers={name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]},
        body=body,
    )
    with suppress(ValueError):
        request.json = json.loads(body)
    return request


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
