"""A uvicorn protocol that does not wait for ever and answers in Google's shape.

uvicorn never times out a silent connection, half a header block or half a body, and answers its own errors in plain
text. This subclass of its httptools protocol adds deadlines for head, body and stalled writes, a cap on the header
block, and refuses what parsers disagree about (no Host, two Hosts, a foreign absolute target). One sweep per process looks
after all connections, so that a call pays for two assignments and no timer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gemini_api.errors import DeadlineExceeded, GeminiError, InvalidArgument, Unavailable
from lib import json

logger = logging.getLogger("gatehouse.guard")
NEVER = float("inf")
SWEEP_SECONDS = 0.5
NO_LINGER = struct.pack("ii", 1, 0)  # closing sends RST and throws away what was not sent


@dataclass(frozen=True, slots=True)
class Patience:
    """How long we wait (seconds), and how much we take (bytes)."""

    header: float = 10.0
    body: float = 30.0
    body_bytes_per_second: float = 1024 * 1024
    write: float = 60.0
    header_bytes: int = 32 * 1024
    connections: int = 4096


class HeadTimeout(DeadlineExceeded):
    """Half a request head, and then nothing: 408, as HTTP has a word for it."""

    code = 408


class HeadTooLarge(InvalidArgument):
    code = 431


class OneWrite:
    """A transport that sends the head of a response together with what is written next.

    uvicorn writes the two one by one, and uvloop hands each to the kernel: a segment and a wake-up of the client more.
    """

    __slots__ = ("_head", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)  # when nothing follows in this turn
            return
        self._transport.write(data)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)

    def close(self) -> None:
        self._flush()
        self._transport.close()


class GuardedProtocol(HttpToolsProtocol):
    patience: ClassVar[Patience] = Patience()
    _open: ClassVar[set[GuardedProtocol]] = set()
    _sweeping: ClassVar[asyncio.AbstractEventLoop | None] = None  # the loop whose timer is set

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadline = NEVER
        self.waits_for = ""
        self.head_bytes = 0
        self.refusal: GeminiError | None = None
        self.lost = False
        self.call: asyncio.Task[Any] | None = None  # whom to cancel when the client leaves; set by the API door

    # The life of a connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]  # a transport in all but name
        cls = type(self)
        if len(cls._open) >= self.patience.connections:
            self.refuse(Unavailable("Too many connections. Please try again later.", retry_after=1))
            return
        cls._open.add(self)
        if sys.platform == "linux":
            # A whole answer may fit into the kernel's buffer: then it is the kernel who waits for the reader.
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.patience.write * 1000)
            )
        self.wait_for("head", self.patience.header)
        if cls._sweeping is not self.loop:
            cls._sweeping = self.loop
            self.loop.call_later(SWEEP_SECONDS, cls.sweep, self.loop)

    def connection_lost(self, exc: Exception | None) -> None:
        type(self)._open.discard(self)
        self.deadline = NEVER
        self.lost = True
        if self.call is not None:
            self.call.cancel()
        super().connection_lost(exc)

    @classmethod
    def sweep(cls, loop: asyncio.AbstractEventLoop) -> None:
        """End the connections that are past their deadline."""
        now = loop.time()
        for connection in [each for each in cls._open if each.deadline < now]:
            connection.give_up()
        if cls._open:
            loop.call_later(SWEEP_SECONDS, cls.sweep, loop)
        else:
            cls._sweeping = None

    def wait_for(self, what: str, seconds: float) -> None:
        self.waits_for = what
        self.deadline = self.loop.time() + seconds

    def give_up(self) -> None:
        self.deadline = NEVER
        if self.transport.is_closing():
            return
        if self.waits_for == "head":
            if self.head_bytes:
                self.refuse(HeadTimeout("The request head did not arrive in time."))
            else:
                self.transport.close()
        elif self.waits_for == "body":
            # The call is waiting in receive(): it hears that the client is gone, and settles.
            self.transport.abort()
        else:
            logger.info("A client stopped reading; its connection was closed.")
            # With RST: the kernel would go on holding what it was given for somebody who never reads.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.transport.abort()

    # The life of a request

    def data_received(self, data: bytes) -> None:
        if self.waits_for == "head":
            self.head_bytes += len(data)
            if self.head_bytes > self.patience.header_bytes and b"\r\n\r\n" not in data:
                self.refuse(HeadTooLarge("The request headers are too large."))
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["gatehouse.connection"] = self  # type: ignore[typeddict-unknown-key]  # for our own door
        self.header_block = 0
        if self.waits_for != "head":
            self.head_bytes = 1
            self.wait_for("head", self.patience.header)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.header_block += len(name) + len(value) + 4
        if self.header_block > self.patience.header_bytes:
            self.fail(HeadTooLarge("The request headers are too large."))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self.fail(InvalidArgument("The request must carry exactly one Host header."))
        if not self.url.startswith((b"/", b"*")):
            self.fail(InvalidArgument("The request target must be a path."))
        self.head_bytes = 0
        self.wait_for("body", self.patience.body)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # A large body may take as long as its size deserves, not longer.
        self.deadline += len(body) / self.patience.body_bytes_per_second
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.deadline = NEVER
        self.waits_for = ""
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.waits_for == "" and not self.transport.is_closing():
            # Between calls uvicorn's keep-alive time-out rules; ours starts with the next head.
            self.deadline = NEVER

    def pause_writing(self) -> None:
        super().pause_writing()
        self.wait_for("write", self.patience.write)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.waits_for == "write":
            self.deadline = NEVER
            self.waits_for = ""

    # Saying no, in Google's shape

    def fail(self, error: GeminiError) -> None:
        """Refuse from inside a parser callback: the parser stops at an exception."""
        self.refusal = error
        raise ValueError(str(error))

    def send_400_response(self, msg: str) -> None:
        self.refuse(self.refusal or InvalidArgument(msg))

    def refuse(self, error: GeminiError) -> None:
        body = json.dumps(error.body())
        head = [
            STATUS_LINE[error.code],
            b"content-type: application/json; charset=UTF-8\r\n",
            b"content-length: " + str(len(body)).encode() + b"\r\n",
            b"connection: close\r\n\r\n",
        ]
        self.transport.write(b"".join(head) + body)
        self.transport.close()
