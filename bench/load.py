"""A load client that costs little: asyncio sockets, keep-alive, a fixed number of calls in flight."""

from __future__ import annotations

import asyncio
import time
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
