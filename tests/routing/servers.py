"""A raw HTTP upstream on loopback: answers with exactly the bytes a test says, and sees connections come and go."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from routing.backends import BACKENDS
from routing.backends.base import Endpoint
from routing.catalog import DeploymentEntry, Timeouts


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """One connection, seen from the server. `write` sends bytes at once; `gone` is set when the client is."""

    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop raises, asyncio does not
            return
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def abort(self) -> None:
        self.writer.transport.abort()


Script = Callable[[Seen, Wire], Awaitable[None]]

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@dataclass
class RawServer:
    """`open_connections` counts what is connected now; `requests` keeps everything that was asked."""

    port: int = 0
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    wires: list[Wire] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def until(self, predicate: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until `predicate` is true; it is asked again whenever a connection or request comes or goes."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(predicate)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextlib.asynccontextmanager
async def raw_server(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve `script`, which is called once per request on keep-alive connections."""
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        wire = Wire(writer)
        server.wires.append(wire)
        server.connections += 1
        server.open_connections += 1
        await server._notify()
        try:
            while (seen := await _read(reader)) is not None:
                server.requests.append(seen)
                await server._notify()
                watching = asyncio.ensure_future(_watch(reader, wire))
                try:
                    await script(seen, wire)
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
                if wire.gone.is_set() or writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            server.open_connections -= 1
            writer.close()
            await server._notify()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listening.wait_closed()


async def _watch(reader: asyncio.StreamReader, wire: Wire) -> None:
    """A client that says nothing more: the next thing heard while answering is its end."""
    with contextlib.suppress(ConnectionError):
        await reader._wait_for_data("watch")  # reads nothing: the next request may already be there
    if reader.at_eof() or reader.exception() is not None:
        wire.gone.set()


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, path, headers, body)


def deployment(
    base_url: str,
    kind: str = "openai",
    *,
    allow_private: bool = True,
    connect: float = 4.0,
    first_byte: float = 5.0,
    idle: float = 5.0,
    total: float = 10.0,
    model: str = "a-model",
    connection_id: str = "c1",
    credential: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> DeploymentEntry:
    """An entry as the catalog would hold it."""
    endpoint = Endpoint(
        kind=kind,
        base_url=base_url,
        model=model,
        connection_id=connection_id,
        options=options or {},
        credential={"api_key": "sk-test"} if credential is None else credential,
        headers=headers or {},
        allow_private=allow_private,
    )
    return DeploymentEntry(
        id="d1",
        name="a deployment",
        model="public",
        connection="a connection",
        kind=kind,
        backend=BACKENDS[kind],
        endpoint=endpoint,
        upstream_model=model,
        base_model=model,
        timeouts=Timeouts(connect, first_byte, idle, total),
    )
