"""Load clients that cost little: asyncio sockets, keep-alive. `load`: so many calls in flight; `offer`: so many a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Result:
    """What a load saw. Times in seconds."""

    calls: int = 0
    errors: int = 0
    chunks: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read(reader: asyncio.StreamReader) -> tuple[int, int, float, bytes]:
    """Status, pieces, time of the first piece, body."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        body = await reader.readexactly(int(lower[at + 15 :].split(b"\r\n", 1)[0]))
        return status, 1, time.perf_counter(), body
    pieces, first, body = 0, 0.0, b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        piece = await reader.readexactly(size + 2)
        if size == 0:
            return status, pieces, first, body
        pieces += 1
        first = first or time.perf_counter()
        body += piece[:-2]


async def worker(port: int, wire: bytes, until: float, limit: int | None, result: Result) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        while time.perf_counter() < until and (limit is None or result.calls < limit):
            result.calls += 1
            begin = time.perf_counter()
            writer.write(wire)
            status, pieces, first, _body = await read(reader)
            result.latencies.append(time.perf_counter() - begin)
            result.first_bytes.append(first - begin)
            result.chunks += pieces
            result.statuses[status] = result.statuses.get(status, 0) + 1
            if status != 200:
                result.errors += 1
    finally:
        writer.close()


async def load(port: int, wire: bytes, *, in_flight: int, seconds: float, limit: int | None = None) -> Result:
    """Keep `in_flight` calls going for `seconds` (or until `limit` calls were sent)."""
    result = Result()
    begin = time.perf_counter()
    await asyncio.gather(*[worker(port, wire, begin + seconds, limit, result) for _ in range(in_flight)])
    result.seconds = time.perf_counter() - begin
    return result


@dataclass(frozen=True)
class Told:
    """One answer. status: 0 when there was none; whole: it came to its end without an error inside. Times in seconds.
    id: what the gateway calls it (x-request-id)."""

    status: int
    whole: bool
    at: float  # time.monotonic() when the call began
    first: float = 0.0  # until the first piece of the body
    seconds: float = 0.0
    body: bytes = b""
    id: str = ""


class Client:
    """Calls on connections that are kept. A call that ends badly ends its connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, wire: bytes, patience: float = 120.0) -> Told:
        began, at = time.perf_counter(), time.monotonic()
        status, first, body, writer = 0, 0.0, b"", None
        try:
            async with asyncio.timeout(patience):
                if self._idle:
                    reader, writer = self._idle.pop()
                else:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
                writer.write(wire)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(b" ", 2)[1])
                async for piece in _pieces(reader, head.lower()):
                    first = first or time.perf_counter()
                    body += piece
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            if writer is not None:
                writer.transport.abort()
            return Told(status, False, at, first - began if first else 0.0, time.perf_counter() - began, body)
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return Told(
            status, b'"error"' not in body, at, first - began, time.perf_counter() - began, body, _request_id(head)
        )

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()


def _request_id(head: bytes) -> str:
    _, found, rest = head.lower().partition(b"\r\nx-request-id: ")
    return rest.split(b"\r\n", 1)[0].decode() if found else ""


async def _pieces(reader: asyncio.StreamReader, head: bytes) -> AsyncIterator[bytes]:
    at = head.find(b"content-length:")
    if at >= 0:
        yield await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
        return
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


async def offer(client: Client, wires: Sequence[bytes], *, rate: float, seconds: float) -> list[Told]:
    """Begin `rate` calls a second whatever becomes of those before, taking the wires by turns. Waits for all answers."""
    began = time.monotonic()
    calls: list[asyncio.Task[Told]] = []
    try:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            calls.append(asyncio.create_task(client.call(wires[number % len(wires)])))
        return await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()
