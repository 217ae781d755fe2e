"""The one HTTP client for model calls: `send` for an answer in one piece, `open_stream` for Frames.

What it holds to: no redirects, no proxy from the environment, no compression, addresses checked before they are
connected to (addresses.py), a cap on everything that comes back, and four deadlines that all shorten one monotonic
one. Cancellation closes an exchange at once; nothing is ever waited for on the way out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from django.conf import settings
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PyreqwestError, RequestTimeoutError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from routing import addresses
from routing.backends.base import UpstreamRequest
from routing.catalog import DeploymentEntry
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Decoder, EventStreamDecoder, Frame, SSEDecoder

log = logging.getLogger(__name__)

MAX_ERROR_BODY = 64 * 1024  # bytes
RESOLVED_FOR = 30.0  # seconds until a host's addresses are asked for again, in the background
IDLE_CONNECTIONS = 512  # per host

DECODERS: dict[str, Callable[[], Decoder]] = {"sse": SSEDecoder, "aws_event_stream": EventStreamDecoder}


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def open() -> None:
    """Nothing to prepare: clients are made when a connection is first used."""


async def close() -> None:
    """Close this loop's clients and stop looking after their addresses."""
    lines = _loops.pop(asyncio.get_running_loop(), {})
    for line in lines.values():
        await line.close()


async def send(deployment: DeploymentEntry, request: UpstreamRequest, *, deadline: float | None = None) -> Answer:
    """One exchange, the answer in one piece.

    deadline: `time.monotonic()` seconds for the whole call; the deployment's own time-outs can only shorten it.
    Raises UpstreamRefusal (not 2xx) and UpstreamError (no proper answer).
    """
    clock = _Clock(deployment, deadline)
    exchange = await _Exchange.begin(deployment, request, clock)
    try:
        body = await exchange.read_all(settings.GATEHOUSE.upstream_max_answer)
        return Answer(exchange.status, exchange.headers, body)
    finally:
        await exchange.close()


class Stream:
    """The Frames of one answer, in order. `headers` have lower-case names."""

    def __init__(self, exchange: _Exchange, decoder: Decoder) -> None:
        self.headers = exchange.headers
        self._exchange = exchange
        self._decoder = decoder
        self._frames: list[Frame] = []
        self._next = 0
        self._ended = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Frame:
        while self._next >= len(self._frames):
            if self._ended:
                raise StopAsyncIteration
            chunk = await self._exchange.read()
            if chunk is None:
                self._ended = True
                self._frames = self._decoder.finish()
            else:
                self._frames = self._decoder.feed(chunk)
            self._next = 0
        frame = self._frames[self._next]
        self._next += 1
        return frame


@asynccontextmanager
async def open_stream(
    deployment: DeploymentEntry, request: UpstreamRequest, *, deadline: float | None = None
) -> AsyncIterator[Stream]:
    """One exchange, the answer as it comes. Leaving closes it, whatever is left. See `send` for the rest."""
    clock = _Clock(deployment, deadline)
    exchange = await _Exchange.begin(deployment, request, clock)
    try:
        yield Stream(exchange, DECODERS[deployment.backend.framing]())
    finally:
        await exchange.close()


class _Clock:
    """When this exchange must have got how far. All in `time.monotonic()` seconds."""

    __slots__ = ("connect", "end", "first_byte", "idle")

    def __init__(self, deployment: DeploymentEntry, deadline: float | None) -> None:
        timeouts = deployment.timeouts
        now = time.monotonic()
        self.end = now + timeouts.total if deadline is None else min(deadline, now + timeouts.total)
        self.first_byte = min(now + timeouts.first_byte, self.end)
        self.idle = timeouts.idle
        self.connect = timeouts.connect


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_begun", "_clock", "_reader", "_request", "headers", "status")

    def __init__(self, request: StreamRequest, response: Response, clock: _Clock) -> None:
        self._request = request
        self._clock = clock
        self._reader = response.body_reader
        self._begun = False
        self.status = response.status
        self.headers: dict[str, str] = dict(response.headers)

    @classmethod
    async def begin(cls, deployment: DeploymentEntry, request: UpstreamRequest, clock: _Clock) -> _Exchange:
        """Send, and wait for the head. Raises UpstreamRefusal for anything but 2xx."""
        line = await _line(deployment, request.url, clock)
        left = clock.first_byte - time.monotonic()
        try:
            sending = (
                line.client.request(request.method, request.url)
                .headers(dict(request.headers))
                .body_bytes(request.body)
                .timeout(timedelta(seconds=max(clock.end - time.monotonic(), 0.001)))
                .streamed_read_buffer_limit(1)
                .build_streamed()
            )
            async with asyncio.timeout(left):
                response = await sending.__aenter__()
        except TimeoutError as error:
            raise _timed_out(error) from error
        except PyreqwestError as error:
            if isinstance(error, ConnectError):
                line.look_again()
            raise _broken(error, begun=False) from error
        except ValueError as error:
            raise UpstreamError("connect", "The request could not be built.", sent=False) from error
        exchange = cls(sending, response, clock)
        if not 200 <= exchange.status < 300:
            try:
                await exchange.refuse()
            finally:
                await exchange.close()
        return exchange

    async def refuse(self) -> None:
        """Raise what an answer other than 2xx means."""
        if 300 <= self.status < 400:
            raise UpstreamError(
                "unavailable",
                f"The upstream answered {self.status}. Redirects are not followed.",
                provider_status=self.status,
            )
        body = b""
        try:
            while len(body) < MAX_ERROR_BODY and (chunk := await self.read()) is not None:
                body += chunk
        except UpstreamError:
            pass  # the status says enough
        raise UpstreamRefusal(self.status, self.headers, body[:MAX_ERROR_BODY])

    async def read(self) -> bytes | None:
        """The next bytes as the network brought them, None at the end."""
        clock = self._clock
        now = time.monotonic()
        until = min(now + clock.idle, clock.end) if self._begun else clock.first_byte
        try:
            async with asyncio.timeout(until - now):
                chunk = await self._reader.read_chunk()
        except TimeoutError as error:
            raise _timed_out(error) from error
        except PyreqwestError as error:
            raise _broken(error, begun=True) from error
        self._begun = True
        return None if chunk is None else bytes(chunk)

    async def read_all(self, limit: int) -> bytes:
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise UpstreamError("protocol", f"The upstream's answer has more than {limit} bytes.")
        pieces: list[bytes] = []
        size = 0
        while (chunk := await self.read()) is not None:
            pieces.append(chunk)
            size += len(chunk)
            if size > limit:
                raise UpstreamError("protocol", f"The upstream's answer has more than {limit} bytes.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def close(self) -> None:
        """Finished or not. Does not really wait: the library only drops the connection's task."""
        await self._request.__aexit__(None, None, None)


@dataclass(slots=True)
class _Line:
    """The client of one connection's host in one event loop, pinned to one of its checked addresses."""

    host: str
    port: int
    allow_private: bool
    connect: float
    found: list[str] = field(default_factory=list)
    checked: float = 0.0
    client: Client = field(init=False)
    looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Ask for the addresses; make a new client when they changed."""
        found = await addresses.resolve(self.host, self.port, self.allow_private)
        self.checked = time.monotonic()
        if found != self.found:
            self.found = found
            self.client = self._build(found[0])

    def look_again(self) -> None:
        """After a failed connect: the next address in turn, at once; and a fresh look soon."""
        if len(self.found) > 1:
            self.found = [*self.found[1:], self.found[0]]
            self.client = self._build(self.found[0])
        self.checked = 0.0

    def refresh(self) -> None:
        """Look in the background. What is known stays good if that fails."""
        self.checked = time.monotonic()
        self.looking = asyncio.get_running_loop().create_task(self._look_quietly())

    async def _look_quietly(self) -> None:
        try:
            async with asyncio.timeout(10):
                await self.look()
        except (OSError, addresses.AddressRefused) as error:
            log.warning("The addresses of %s cannot be looked up again (%s).", self.host, error)

    def _build(self, address: str) -> Client:
        return (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(False)
            .referer(False)
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .http1_lower_case_headers()
            .user_agent("gatehouse")
            .connect_timeout(timedelta(seconds=self.connect))
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .resolve(self.host, address, 0)
            .build()
        )

    async def close(self) -> None:
        if self.looking is not None:
            self.looking.cancel()
        await self.client.close()


# A client belongs to the event loop that made it.
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Any, ...], _Line]] = WeakKeyDictionary()


@lru_cache(maxsize=1024)
def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


async def _line(deployment: DeploymentEntry, url: str, clock: _Clock) -> _Line:
    endpoint = deployment.endpoint
    lines = _loops.setdefault(asyncio.get_running_loop(), {})
    key = (endpoint.connection_id, _origin(url), endpoint.allow_private, clock.connect)
    line = lines.get(key)
    if line is not None:
        if time.monotonic() - line.checked > RESOLVED_FOR:
            line.refresh()
        return line
    _scheme, host, port = _origin(url)
    line = _Line(host, port, endpoint.allow_private, clock.connect)
    try:
        async with asyncio.timeout(clock.connect):
            await line.look()
    except addresses.AddressRefused as error:
        raise UpstreamError("connect", str(error), sent=False) from error
    except TimeoutError as error:
        raise UpstreamError("connect", f"{host} could not be looked up in time.", sent=False) from error
    except OSError as error:
        raise UpstreamError("connect", f"{host} could not be looked up.", sent=False) from error
    return lines.setdefault(key, line)


def _timed_out(error: Exception) -> UpstreamError:
    if isinstance(error, ConnectTimeoutError):
        return UpstreamError("connect", "The upstream did not accept the connection in time.", sent=False)
    return UpstreamError("timeout", "The upstream did not answer in time.")


def _broken(error: PyreqwestError, *, begun: bool) -> UpstreamError:
    causes = [str(cause["message"]) for cause in (getattr(error, "details", None) or {}).get("causes") or []]
    if isinstance(error, RequestTimeoutError):
        return _timed_out(error)
    if begun:
        return UpstreamError("cut", "The upstream broke the connection off in its answer.")
    if isinstance(error, ConnectError) and "client error (Connect)" in causes:
        return UpstreamError("connect", "The upstream could not be connected to.", sent=False)
    if isinstance(error, ConnectError):
        return UpstreamError("cut", "The upstream closed the connection without an answer.")
    return UpstreamError("protocol", "The upstream's answer is not HTTP.")
