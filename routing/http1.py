"""HTTP/1.1 to upstreams: connections in a pool, one exchange at a time on each, parsed by httptools (llhttp).

Why not a client library: an exchange that is cancelled before its head has arrived must end at once, or the upstream
goes on generating at our cost (docs/decisions). Here leaving is `transport.abort()`. It also makes an address
check certain: the socket is connected to the address that was checked.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

import certifi
import httptools

from routing import addresses

log = logging.getLogger(__name__)

MAX_HEAD = 64 * 1024  # bytes of head; and of chunk sizes, extensions and trailers beyond eight times the body
HIGH_WATER = 256 * 1024  # bytes that wait to be read before the upstream is told to wait
KEEP_IDLE = 60.0  # seconds
MAX_IDLE = 512  # connections per pool
RESOLVED_FOR = 30.0  # seconds for which a host's addresses are not asked for again
STALE_REUSE = 1.0  # seconds: an idle connection that the server was closing just then shows it sooner than this


class Refused(Exception):
    """No connection: nothing was sent. The text is a sentence without secrets."""


class Broken(Exception):
    """The connection ended before the answer did."""


class Garbled(Exception):
    """What came is not an HTTP answer."""


class Silent(Exception):
    """What was waited for did not come in time."""


class Connection(asyncio.Protocol):
    """One connection. `begin` starts an exchange, `head` and `read` follow it, `leave` ends it either way."""

    __slots__ = (
        "_abandoned", "_body", "_chunks", "_ended", "_error", "_held", "_keep", "_length_known", "_loop", "_parser", "_paused", "_received",
        "_rings", "_timer", "_transport", "_until", "_waiter", "headers", "idle_since", "pool", "status", "used",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.used = 0  # exchanges so far
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = self._rings = 0.0
        self._error: Exception | None = None
        self._chunks: list[bytes] = []
        self._held = self._received = self._body = 0
        self._ended = True
        self._abandoned = False
        self._keep = self._paused = self._length_known = False

    # ---- for whoever uses it

    def begin(self, request: bytes, body: bytes) -> None:
        """Send a request. Small bodies leave in the same segment as their head."""
        assert self._transport is not None
        self.used += 1
        self.status, self.headers = 0, {}
        self._chunks, self._held, self._received, self._body = [], 0, 0, 0
        self._ended = self._keep = self._length_known = False
        self._parser = httptools.HttpResponseParser(self)
        if len(body) < 65536:
            self._transport.write(request + body)
        else:
            self._transport.write(request)
            self._transport.write(body)

    async def head(self, until: float) -> None:
        """Wait for `status` and `headers`, until `time.monotonic()` says so. Raises Silent, Broken, Garbled."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news(until)

    async def read(self, until: float) -> bytes | None:
        """Whatever has arrived of the body, None at its end. Raises as `head` does."""
        while not self._chunks:
            if self._ended:
                return None
            if self._error is not None:
                raise self._error
            await self._news(until)
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks, self._held = [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def usable(self) -> bool:
        """False from the moment the transport knows its end, which is before `connection_lost`."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Not a byte of an answer has come."""
        return not self._received

    def leave(self) -> None:
        """Back into the pool when the exchange is complete; otherwise the connection is closed this instant."""
        self._parser = None
        clean = self._ended and self._keep and not self._paused and self._error is None
        # An answer that came before the request was sent to its end leaves a connection that nobody should inherit.
        if clean and self._transport is not None and not self._transport.get_write_buffer_size():
            self.pool.put(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close this instant, or as soon as it is open."""
        self._abandoned = True
        self.pool.open.discard(self)  # uvloop tells no `connection_lost` when connecting was cancelled in its last turn
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # ---- waiting: one timer per connection, moved only when it rings or would ring too late

    def _news(self, until: float) -> asyncio.Future[None]:
        """Done when something has come. Raises Silent, at once or from the future."""
        self._until = until
        if self._timer is None or self._rings > until + 0.001:
            delay = until - time.monotonic()
            if delay <= 0:
                raise Silent
            self._set_timer(delay)
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._until
        self._timer = self._loop.call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        left = self._until - time.monotonic()
        if left > 0.001:
            self._set_timer(left)
        else:
            self._waiter.set_exception(Silent())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    # ---- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self._abandoned:
            self._transport.abort()
        else:
            self.pool.open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._ended:  # nobody asked: whatever this is, the connection is of no use
            self._fail(Garbled("data outside an exchange"))
            self.pool.drop(self)
            self.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Garbled(type(error).__name__))
            return
        if self._received - self._body > MAX_HEAD + 8 * self._body:
            self._fail(Garbled("too much of it is not body"))
            return
        if self._held > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        if self._chunks or self._ended or self.status:
            self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.pool.open.discard(self)
        self.pool.drop(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if error is None and self.status and not self._ended and not self._length_known:
            self._ended = True  # a body without length ends with its connection
        self._fail(Broken("the connection was closed"))

    # ---- httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:  # a trailer
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.headers = {}
            return
        self.status = status
        self._length_known = "content-length" in self.headers or "transfer-encoding" in self.headers

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held += len(data)
        self._body += len(data)

    def on_message_complete(self) -> None:
        if self.status:
            self._ended = True
            self._keep = self._parser.should_keep_alive()


class Pool:
    """The connections to one host on behalf of one connection row, in one event loop."""

    def __init__(self, scheme: str, host: str, port: int, *, allow_private: bool, max_answer: int) -> None:
        self.host = host
        self.port = port
        self.allow_private = allow_private
        self.max_answer = max_answer  # bytes
        self.tls = scheme == "https"
        self.open: set[Connection] = set()
        self._idle: deque[Connection] = deque()  # the last one used is the first one taken
        self._addresses: list[str] = []
        self._asked = 0.0
        self._sweep: asyncio.TimerHandle | None = None

    def take(self) -> Connection | None:
        """An idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    def put(self, connection: Connection) -> None:
        if len(self._idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_IDLE, self._close_idle)

    def drop(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    async def connect(self, until: float) -> Connection:
        """A new connection to one of the host's checked addresses. Raises Refused."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(until - time.monotonic()):
                tls = await loop.run_in_executor(None, tls_context) if self.tls else None
                found = await self._resolved()
        except TimeoutError:
            raise Refused(f"{self.host} could not be looked up in time.") from None
        tried: OSError | None = None
        for number, address in enumerate(found):
            connection = Connection(self)
            try:
                async with asyncio.timeout((until - time.monotonic()) / (len(found) - number)):
                    await loop.create_connection(
                        lambda made=connection: made,
                        address,
                        self.port,
                        ssl=tls,
                        server_hostname=self.host if tls else None,
                    )
            except OSError as error:  # TimeoutError is one
                connection.abort()
                tried = error
            except BaseException:
                connection.abort()
                raise
            else:
                if number:  # the one that works goes first from now on
                    self._addresses = [address, *(each for each in found if each != address)]
                return connection
        self._asked = 0.0  # the next one looks again: the host may have moved
        raise Refused(_why(self.host, tried)) from tried

    async def _resolved(self) -> list[str]:
        now = time.monotonic()
        if self._addresses and now - self._asked < RESOLVED_FOR:
            return self._addresses
        try:
            self._addresses = await addresses.resolve(self.host, self.port, self.allow_private)
            self._asked = now
        except addresses.AddressRefused as error:
            raise Refused(str(error)) from None
        except OSError as error:
            if not self._addresses:
                raise Refused(f"{self.host} could not be looked up.") from error
            log.warning("%s cannot be looked up just now; its last addresses are used.", self.host)
        return self._addresses

    def _close_idle(self) -> None:
        self._sweep = None
        limit = time.monotonic() - KEEP_IDLE / 2
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle.popleft().abort()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_IDLE / 2, self._close_idle)

    def close(self) -> None:
        """Close everything, also what is in use."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for connection in list(self.open):
            connection.abort()


def _why(host: str, error: OSError | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of {host} is not valid: {error.verify_message}."
    if isinstance(error, ssl.SSLError):
        return f"{host} does not speak TLS properly ({error.reason})."
    if isinstance(error, TimeoutError):
        return f"{host} did not accept a connection in time."
    return f"{host} could not be connected to."


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """The system's authorities and certifi's. Blocking for some tens of milliseconds, the first time."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


_TARGET = re.compile(r"[\x21-\x7e]+\Z")
_HEADER = r"[!#$%&'*+.^_`|~0-9a-z-]+: [\x20-\x7e\x80-\xff\t]*\r\n"
_ONE_HEADER, _HEADERS = re.compile(_HEADER), re.compile(f"(?:{_HEADER})*")


@lru_cache(maxsize=2048)
def target(method: str, url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port, and the first lines of a request. Raises ValueError."""
    if not _TARGET.match(url) or not method.isalpha():
        raise ValueError("the URL cannot be sent")
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    return parts.scheme, parts.hostname or "", port, f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n"


def request_head(first: str, headers: Mapping[str, str], length: int) -> bytes:
    """The head of a request. Raises ValueError for a header that would not stay one line."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join(lines)
    if text.count("\n") != len(lines) or not _HEADERS.fullmatch(text):
        wrong = next(line for line in lines if not _ONE_HEADER.fullmatch(line))
        raise ValueError(f"the header {wrong.partition(':')[0][:40]!r} cannot be sent")
    return f"{first}{text}content-length: {length}\r\n\r\n".encode("latin-1")
