"""The one way to upstreams: `send` for an answer in one piece, `open_stream` for Frames.

What it holds to: no redirects, no proxy from the environment, no compression, addresses checked before they are
connected to (addresses.py), a cap on everything that comes back, and four deadlines that all shorten one monotonic
one. Cancellation closes an exchange at once, and nothing is ever waited for on the way out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings

from routing import http1
from routing.backends.base import UpstreamRequest
from routing.catalog import DeploymentEntry, Timeouts
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Decoder, EventStreamDecoder, Frame, SSEDecoder

MAX_ERROR_BODY = 64 * 1024  # bytes
CONNECT_SHARE = 0.5  # of the time for connecting that one try may use, so that another one can follow
NO_ANSWER = (http1.Broken, http1.Garbled, http1.Silent)  # what a connection raises instead of bytes
DECODERS: dict[str, Callable[[], Decoder]] = {"sse": SSEDecoder, "aws_event_stream": EventStreamDecoder}


@dataclass(slots=True)  # not frozen: that makes one for each call three times as dear
class Answer:
    """A 2xx answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def open() -> None:
    """Load the certificate authorities now rather than in the first call."""
    await asyncio.to_thread(http1.tls_context)


async def close() -> None:
    """Close this loop's connections, also those in use."""
    for pool in _pools.pop(asyncio.get_running_loop(), {}).values():
        pool.close()


async def send(
    deployment: DeploymentEntry,
    request: UpstreamRequest,
    *,
    deadline: float | None = None,
    timeouts: Timeouts | None = None,
) -> Answer:
    """One exchange, the answer in one piece.

    deadline: `time.monotonic()` seconds for the whole call; time-outs can only shorten it. timeouts: what earlier tries
    of the call have left; None: the deployment's own. Raises UpstreamRefusal (not 2xx) and UpstreamError (no proper answer).
    """
    exchange = _Exchange(deployment, deadline, timeouts)
    try:
        await exchange.begin(request)
        return Answer(exchange.status, exchange.headers, await exchange.read_all())
    finally:
        exchange.leave()


class open_stream:
    """One exchange, the answer as it comes: an async context manager. Leaving closes it, whatever is left.

    Arguments and errors as in `send`; the errors of the head come on entering, the others from the iteration.
    """

    def __init__(
        self, deployment: DeploymentEntry, request: UpstreamRequest, *, deadline: float | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:  # fmt: skip
        self._exchange = _Exchange(deployment, deadline, timeouts)
        self._request = request
        self._framing = deployment.backend.framing

    async def __aenter__(self) -> Stream:
        try:
            await self._exchange.begin(self._request)
        except BaseException:
            self._exchange.leave()
            raise
        return Stream(self._exchange, DECODERS[self._framing]())

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._exchange.leave()
        if isinstance(error, NO_ANSWER):
            raise self._exchange.understood(error) from error


class Stream:
    """The Frames of one answer, in order. `headers` have lower-case names.

    The iteration raises NO_ANSWER as it is; `open_stream` makes an UpstreamError of it, once, where its context ends.
    """

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
            data = await self._exchange.piece()
            self._ended = data is None
            self._frames = self._decoder.finish() if data is None else self._decoder.feed(data)
            self._next = 0
        frame = self._frames[self._next]
        self._next += 1
        return frame

    def close(self) -> None:
        """End the exchange now. Leaving the context does the same."""
        self._ended = True
        self._exchange.leave()


class _Exchange:
    """One request and its answer, against the clock. All times are `time.monotonic()` seconds."""

    __slots__ = (
        "_begun",
        "_connect_wait",
        "_connection",
        "_deployment",
        "_end",
        "_first_byte",
        "_idle",
        "headers",
        "status",
    )

    def __init__(self, deployment: DeploymentEntry, deadline: float | None, given: Timeouts | None) -> None:
        now, timeouts = time.monotonic(), given or deployment.timeouts
        self._deployment = deployment
        self._end = now + timeouts.total if deadline is None else min(deadline, now + timeouts.total)
        self._first_byte = min(now + timeouts.first_byte, self._end)
        self._idle = timeouts.idle
        self._connect_wait = min(timeouts.connect, deployment.timeouts.connect * CONNECT_SHARE)
        self._begun = False
        self._connection: http1.Connection | None = None
        self.status = 0
        self.headers: Mapping[str, str] = {}

    async def begin(self, request: UpstreamRequest) -> None:
        """Send, and wait for the head. Raises UpstreamRefusal for anything but 2xx."""
        try:
            scheme, host, port, first = http1.target(request.method, request.url)
            head = http1.request_head(first, request.headers, len(request.body))
        except ValueError as error:
            raise UpstreamError("connect", f"The request cannot be sent: {error}.", sent=False) from None
        pool = _pool(self._deployment, scheme, host, port)
        connection = self._connection = pool.take() or await self._connect(pool)
        started = time.monotonic()
        connection.begin(head, request.body)
        try:
            try:
                await connection.head(self._first_byte)
            except http1.Broken:
                if connection.used == 1 or not connection.silent or time.monotonic() - started > http1.STALE_REUSE:
                    raise
                # An idle connection that the server was just closing: it has not read this request.
                connection = self._connection = await self._connect(pool)
                connection.begin(head, request.body)
                await connection.head(self._first_byte)
        except NO_ANSWER as error:
            raise self.understood(error) from error
        self.status, self.headers = connection.status, connection.headers
        if not 200 <= self.status < 300:
            await self._refuse()
        if self.headers.get("content-encoding", "identity") != "identity":
            raise UpstreamError("protocol", "The upstream compressed its answer, although it was asked not to.")

    def piece(self) -> Awaitable[bytes | None]:
        """The next bytes as the network brought them, None at the end. The first have the time for the first byte, the
        others the idle time. Raises NO_ANSWER."""
        connection = self._connection
        assert connection is not None
        if self._begun:
            return connection.read(min(time.monotonic() + self._idle, self._end))
        self._begun = True
        return connection.read(self._first_byte)

    async def read(self) -> bytes | None:
        """A piece. Raises UpstreamError."""
        try:
            return await self.piece()
        except NO_ANSWER as error:
            raise self.understood(error) from error

    async def read_all(self) -> bytes:
        """The whole body. Raises UpstreamError (protocol) when it is larger than the settings allow."""
        assert self._connection is not None
        limit = self._connection.pool.max_answer
        pieces: list[bytes] = []
        size = 0
        while (data := await self.read()) is not None:
            size += len(data)
            if size > limit:
                raise UpstreamError("protocol", f"The upstream's answer has more than {limit} bytes.")
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()

    async def _connect(self, pool: http1.Pool) -> http1.Connection:
        now = time.monotonic()
        if now >= self._end:
            raise UpstreamError("timeout", "No time was left for this call.", sent=False)
        try:
            return await pool.connect(min(now + self._connect_wait, self._end))
        except http1.Refused as error:
            raise UpstreamError("connect", str(error), sent=False) from error

    async def _refuse(self) -> None:
        """Raise what an answer other than 2xx means."""
        if 300 <= self.status < 400:
            said = f"The upstream answered {self.status}. Redirects are not followed."
            raise UpstreamError("unavailable", said, provider_status=self.status)
        body = b""
        try:
            while len(body) < MAX_ERROR_BODY and (data := await self.read()) is not None:
                body += data
        except UpstreamError:
            pass  # the status says enough
        raise UpstreamRefusal(self.status, self.headers, body[:MAX_ERROR_BODY])

    def understood(self, error: BaseException) -> UpstreamError:
        """One of NO_ANSWER, as the router knows it."""
        match error:
            case http1.Silent():
                return UpstreamError("timeout", "The upstream did not answer in time.")
            case http1.Garbled():
                return UpstreamError("protocol", f"The upstream's answer is not HTTP ({error}).")
            case _ if self.status:
                return UpstreamError("cut", "The upstream broke off its answer.")
            case _:
                return UpstreamError("cut", "The upstream closed the connection without an answer.")


# Connections belong to the event loop that made them.
_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Any, ...], http1.Pool]] = WeakKeyDictionary()


def _pool(deployment: DeploymentEntry, scheme: str, host: str, port: int) -> http1.Pool:
    """Connection rows never share sockets, even to the same host."""
    endpoint = deployment.endpoint
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    key = (endpoint.connection_id, scheme, host, port, endpoint.allow_private)
    pool = pools.get(key)
    if pool is None:
        pool = pools[key] = http1.Pool(
            scheme,
            host,
            port,
            allow_private=endpoint.allow_private,
            max_answer=settings.GATEHOUSE.upstream_max_answer,
        )
    return pool
