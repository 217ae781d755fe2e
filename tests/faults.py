"""A TCP proxy on loopback that misbehaves on demand: what networks and sick servers do to an upstream.

    with fault_proxies(upstream_port, upstream_port) as (first, second):
        first.set(FAULTS["black hole"])         # at any time, for connections that are open too
        first.set(HEALTHY)

It knows no HTTP. An exchange is what follows when the client speaks again after having heard something.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

PIECE = 64 * 1024  # bytes
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave; the fields go together as one likes.

    listens: "yes", "refuse" (connection refused), or "full" (its queue is full: a connection is neither made nor refused).
    reset: answer whatever the client says with RST. half_close: with the end of the stream, while still reading.
    silent: read, and never answer. latency: seconds before each answer. drip: bytes and seconds, an answer goes out in
    such pieces with such pauses. cut_after: bytes of an answer, and then the end. corrupt_at: which byte of an answer
    is turned into another one.
    """

    listens: Literal["yes", "refuse", "full"] = "yes"
    reset: bool = False
    half_close: bool = False
    silent: bool = False
    latency: float = 0.0
    drip: tuple[int, float] | None = None
    cut_after: int | None = None
    corrupt_at: int | None = None


HEALTHY = Fault()
FAULTS = {
    "latency": Fault(latency=0.5),
    "reset": Fault(reset=True),
    "black hole": Fault(silent=True),
    "refuse": Fault(listens="refuse"),
    "full backlog": Fault(listens="full"),
    "slow drip": Fault(drip=(64, 0.05)),
    "cut": Fault(cut_after=100),
    "corrupt": Fault(corrupt_at=0),
    "half close": Fault(half_close=True),
}


class FaultProxy:
    """Forwards to a port of this machine. Belongs to the loop that opened it.

    exchanges: how many came in so far; a connection that was never made brings none.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self.exchanges = 0
        self.fault = HEALTHY
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._fillers: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listen()

    async def close(self) -> None:
        self._stop_listening()
        self._hang_up()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._socket.close()

    def set(self, fault: Fault) -> None:
        """From now on. From the proxy's loop at once; from another thread it is done when this returns."""
        assert self._loop is not None, "it is not open"
        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            self._set(fault)
        else:
            asyncio.run_coroutine_threadsafe(self._set_soon(fault), self._loop).result(10)

    async def _set_soon(self, fault: Fault) -> None:
        self._set(fault)

    def _set(self, fault: Fault) -> None:
        before, self.fault = self.fault, fault
        if fault.listens == before.listens:
            return
        self._stop_listening()
        self._hang_up()  # what refuses now is a server that was started again: its connections are gone
        if fault.listens == "yes":
            self._listen()
        elif fault.listens == "full":
            self._fill()

    # ---- listening, refusing, and neither

    def _listen(self) -> None:
        assert self._loop is not None
        self._socket.listen(1024)
        self._accepting = self._loop.create_task(self._accept())

    def _stop_listening(self) -> None:
        """The port stays ours: a bound socket that does not listen refuses connections."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._socket.close()
        self._socket = _bound(self.port)

    def _fill(self) -> None:
        """A queue of one, and two that wait in it: the kernel then leaves everybody else without an answer."""
        self._socket.listen(0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._socket)
            reader, writer = await asyncio.open_connection(sock=client)
            task = loop.create_task(self._serve(reader, writer))
            self._connections[task] = writer
            task.add_done_callback(self._connections.pop)

    def _hang_up(self) -> None:
        for task, writer in self._connections.items():
            _reset(writer)
            task.cancel()

    # ---- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        answering: asyncio.Task[None] | None = None
        answer = _Answer()
        with contextlib.suppress(OSError):
            try:
                while data := await reader.read(PIECE):
                    if answer.begun or upstream is None:
                        self.exchanges += 1
                    answer.begun = answer.sent = 0
                    if self.fault.reset:
                        _reset(writer)
                        break
                    if self.fault.half_close and writer.can_write_eof():
                        writer.write_eof()
                    if upstream is None:
                        back, upstream = await asyncio.open_connection("127.0.0.1", self.target)
                        answering = asyncio.get_running_loop().create_task(self._answer(back, writer, answer))
                    if not (self.fault.silent or self.fault.half_close):
                        upstream.write(data)
                        await upstream.drain()
            finally:
                if answering is not None:
                    answering.cancel()
                if upstream is not None:
                    upstream.close()
                writer.close()

    async def _answer(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: _Answer) -> None:
        with contextlib.suppress(OSError):
            while data := await back.read(PIECE):
                fault = self.fault
                if fault.silent:
                    continue
                if fault.latency and not answer.begun:
                    answer.begun = 1
                    await asyncio.sleep(fault.latency)
                answer.begun = 1
                if fault.corrupt_at is not None and 0 <= (at := fault.corrupt_at - answer.sent) < len(data):
                    data = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
                if fault.cut_after is not None and answer.sent + len(data) >= fault.cut_after:
                    writer.write(data[: fault.cut_after - answer.sent])
                    break
                answer.sent += len(data)
                await self._write(writer, data, fault.drip)
        writer.close()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, drip: tuple[int, float] | None) -> None:
        size, pause = drip or (len(data), 0.0)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)


@dataclass(slots=True)
class _Answer:
    """How far the answer of an exchange is: whether it began, and its bytes so far."""

    begun: int = 0
    sent: int = 0


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.setblocking(False)
    return made


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


@contextmanager
def fault_proxies(*targets: int) -> Iterator[list[FaultProxy]]:
    """One proxy for each port, in a thread of this process; healthy to begin with."""
    proxies = [FaultProxy(target) for target in targets]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fault proxies", daemon=True)
    thread.start()

    async def each(what: str) -> None:
        for proxy in proxies:
            await getattr(proxy, what)()

    try:
        asyncio.run_coroutine_threadsafe(each("open"), loop).result(10)
        yield proxies
    finally:
        asyncio.run_coroutine_threadsafe(each("close"), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
