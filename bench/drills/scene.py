"""What every drill sets up: a vendor that does as it is told, in the drill's own loop, and a configuration in front of it."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from bench import upstream
from bench.load import Told, request
from bench.processes import free_port

ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": "What is a gatehouse for?"}]}]}).encode()


class Vendor:
    """Speaks Gemini. delay: seconds before an answer; status: of all answers, 200 or a refusal; retry_after: what a
    refusal asks for; pieces, pace: of a stream, and the seconds between them; answer: the body of a whole answer.

    calls: time.monotonic() of every request so far. cut_every, break_every: every so manieth stream breaks off, or
    says an error, after two pieces.
    """

    def __init__(self, delay: float = 0.05, pieces: int = 5, pace: float = 0.01) -> None:
        self.port = free_port()
        self.delay, self.pieces, self.pace = delay, pieces, pace
        self.status = 200
        self.retry_after = 0
        self.cut_every = self.break_every = 0
        self.answer = upstream.UNARY["gemini"]
        self.calls: list[float] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Vendor]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=2048)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    def asked(self, transport: Any, path: str) -> None:
        self.calls.append(time.monotonic())
        task = asyncio.get_running_loop().create_task(self._answer(transport, "streamGenerateContent" in path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, transport: Any, stream: bool) -> None:
        number = len(self.calls)
        await asyncio.sleep(self.delay)
        if self.status != 200:
            body = json.dumps({"error": {"code": self.status, "message": "No.", "status": "UNAVAILABLE"}}).encode()
            wait = f"retry-after: {self.retry_after}\r\n" if self.retry_after else ""
            head = f"HTTP/1.1 {self.status} No\r\ncontent-type: application/json\r\n{wait}content-length: {len(body)}\r\n\r\n"
            transport.write(head.encode() + body)
        elif not stream:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(self.answer)
            transport.write(head + self.answer)
        else:
            await self._stream(transport, number)

    async def _stream(self, transport: Any, number: int) -> None:
        transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        events = upstream.STREAMS["gemini"]
        for place, event in enumerate([*events[: self.pieces - 1], events[-1]]):
            if place == 2 and self.cut_every and number % self.cut_every == 0:
                transport.abort()
            if place == 2 and self.break_every and number % self.break_every == 0:
                event = b'data: {"error":{"code":500,"message":"broken","status":"INTERNAL"}}\n\n'
            if transport.is_closing():
                return
            transport.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await asyncio.sleep(self.pace)
        transport.write(b"0\r\n\r\n")


class _Connection(upstream.Connection):
    """The fast upstream's parser with this vendor's answers."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor

    def answer(self, path: str, body: bytes) -> None:
        self.vendor.asked(self.transport, path)


async def until(happened: Callable[[], object], seconds: float = 60.0, every: float = 0.02) -> bool:
    """Wait for something; whether it happened in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        await asyncio.sleep(every)
    return False


def configuration(places: dict[str, str], models: dict[str, Sequence[str]], **fields: Any) -> str:
    """places: connection -> URL. models: name -> the connections it may use. fields: of every model. JSON is YAML."""
    return json.dumps(
        {
            "organizations": [{"slug": "drill", "name": "Drill"}],
            "connections": [
                {"name": name, "kind": "gemini", "base_url": url, "credential": {"api_key": "k"}, "allow_private": True}
                for name, url in places.items()
            ],
            "models": [
                {
                    "name": name,
                    "unpriced": "serve",
                    "deployments": [{"connection": each, "upstream_model": "drill"} for each in used],
                    **fields,
                }
                for name, used in models.items()
            ],
            "keys": [{"organization": "drill", "name": "drill"}],
        }
    )


def unary(model: str, key: str) -> bytes:
    return request(f"/v1beta/models/{model}:generateContent", ASK, {"x-goog-api-key": key})


def streamed(model: str, key: str) -> bytes:
    return request(f"/v1beta/models/{model}:streamGenerateContent?alt=sse", ASK, {"x-goog-api-key": key})


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def in_words(answers: Sequence[Told]) -> str:
    """How many of each status: `200: 118, 503: 2`."""
    counts: dict[int, int] = {}
    for each in answers:
        counts[each.status] = counts.get(each.status, 0) + 1
    return ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(counts.items()))


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """PostgreSQL and Valkey out of the development wheels: the variables that name them."""
    from tests.servers import Servers

    started = Servers()
    try:
        yield dict(zip(("DATABASE_URL", "REDIS_URL"), started.start(), strict=True))
    finally:
        started.stop()
