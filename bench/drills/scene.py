"""What every drill sets up: a vendor that does as it is told, in the drill's own loop, and a configuration in front of it."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from bench import upstream
from bench.load import Told, request
from bench.processes import Gateway, free_port, gateway, manage, process

if TYPE_CHECKING:  # only the drills that start servers need the development requirements
    from tests.servers import Servers

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
        self.connections: set[Any] = set()
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
            await asyncio.sleep(0)  # connections that were just made
            for task in self._tasks:
                task.cancel()
            for transport in list(self.connections):
                transport.abort()

    def asked(self, transport: Any, path: str, body: bytes) -> None:
        self.calls.append(time.monotonic())
        task = asyncio.get_running_loop().create_task(self._answer(transport, "streamGenerateContent" in path, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, transport: Any, stream: bool, body: bytes) -> None:
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.vendor.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.vendor.connections.discard(self.transport)

    def answer(self, path: str, body: bytes) -> None:
        self.vendor.asked(self.transport, path, body)


async def until(happened: Callable[[], object], seconds: float = 60.0, every: float = 0.02) -> bool:
    """Wait for something; whether it happened in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        await asyncio.sleep(every)
    return False


def configuration(
    places: dict[str, str],
    models: dict[str, Sequence[str]],
    *,
    keys: Mapping[str, Any] | None = None,
    limits: Sequence[Mapping[str, Any]] = (),
    price: Mapping[str, Any] | None = None,
    **fields: Any,
) -> str:
    """places: connection -> URL. models: name -> the connections it may use. keys: name -> its fields, one plain key
    `drill` without; limits: of the organization; price: of every deployment; fields: of every model. JSON is YAML."""
    deployment = {"upstream_model": "drill", **({"price": price} if price else {})}
    return json.dumps(
        {
            "organizations": [{"slug": "drill", "name": "Drill", "limits": list(limits)}],
            "connections": [
                {"name": name, "kind": "gemini", "base_url": url, "credential": {"api_key": "k"}, "allow_private": True}
                for name, url in places.items()
            ],
            "models": [
                {
                    "name": name,
                    "unpriced": "serve",
                    "deployments": [{"connection": each, **deployment} for each in used],
                    **fields,
                }
                for name, used in models.items()
            ],
            "keys": [{"organization": "drill", "name": name, **each} for name, each in (keys or {"drill": {}}).items()],
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
    with running_servers() as (_, variables):
        yield variables


@contextmanager
def running_servers() -> Iterator[tuple[Servers, dict[str, str]]]:
    """The same, with the servers themselves, to stop and to pause."""
    from tests.servers import Servers

    started = Servers()
    try:
        yield started, dict(zip(("DATABASE_URL", "REDIS_URL"), started.start(), strict=True))
    finally:
        started.stop()


@contextmanager
def processes(text: str, count: int, variables: dict[str, str]) -> Iterator[tuple[Gateway, list[int]]]:
    """So many server processes of one installation, each with a port of its own; the installation is the first one's."""
    with gateway(text, variables=variables) as house, ExitStack() as stack:
        ports = [house.port]
        for _ in range(count - 1):
            ports.append(port := free_port())
            stack.enter_context(process(serving(port), port, house.variables, log=house.data / "serve.log"))
        yield house, ports


def serving(port: int) -> list[str]:
    return [sys.executable, "manage.py", "serve", "--port", str(port)]


def counters(house: Gateway, lag: float = 3.0) -> list[dict[str, Any]]:
    """Every calendar and lifetime counter beside the ledger: `used`, `held`, `ledger`, `drift` and what limit it is."""
    found: list[dict[str, Any]] = json.loads(manage(house.variables, "reconcile", "--json", "--lag", str(lag)))
    return found


def records(house: Gateway, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of every record in PostgreSQL."""
    import psycopg

    with psycopg.connect(house.variables["DATABASE_URL"]) as database:
        return database.execute(f"SELECT {', '.join(columns)} FROM usage_requestrecord".encode()).fetchall()


def verdict(faults: Sequence[str]) -> None:
    """Say it, and end the process: 0 when everything was met, 1 when something was not."""
    print("\n".join(f"MISSED: {fault}" for fault in faults) or "MET", flush=True)
    raise SystemExit(1 if faults else 0)
