"""ApiHandler: the lean door for API paths.

Django's stock ASGI handler opens a thread context for every request, and its signals, its logging and most middlewares
hop into that thread. This one takes the same views and does none of that: async middlewares only, no request signals
(so no connection housekeeping: nothing behind this door may touch the ORM), no sessions, no cookies.

The key is looked up from the request head before the body is read, and the body of a call without a usable key is
not read at all. The refusing itself is the view's. A client that leaves cancels its call.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import lru_cache
from io import BytesIO
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import ResolverMatch, get_resolver
from django.utils.functional import cached_property
from django.utils.module_loading import import_string

from gemini_api.errors import GeminiError, InvalidArgument, TooLarge, Unavailable
from gemini_api.output import StreamedAnswer, error_response
from keys import lookup, secrets
from keys.context import Caller
from lib.ids import uuid7_text
from proxy_site.guard import GuardedProtocol

logger = logging.getLogger("gatehouse.door")
Scope = dict[str, Any]


class ClientGone(Exception):
    """The client left before its request was complete."""


class ApiRequest(ASGIRequest):
    """Django's request; what only few ask for is made when they do. headers: names in lower case, as they came."""

    def __init__(self, scope: Scope, headers: dict[str, str], body: bytes) -> None:
        """Raises UnicodeDecodeError."""
        scope["query_string"].decode()
        self.scope = scope
        self.headers = headers  # type: ignore[assignment]  # what HttpHeaders is used for here, a dict can too
        self.method = scope["method"]
        self.path = scope["path"]
        self.path_info = self.path.removeprefix(scope.get("root_path", ""))
        self.resolver_match = None
        self._body = body

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]  # nobody writes it
        return ASGIRequest(self.scope, BytesIO()).META


class ApiHandler(ASGIHandler):
    """The way in for API calls: head, key, body, view, answer."""

    def __init__(self) -> None:
        self.max_body: int = settings.GATEHOUSE.max_body
        self.max_calls: int = settings.GATEHOUSE.max_calls
        self.calls = 0
        super().__init__()

    def load_middleware(self, is_async: bool = True) -> None:
        """Our own list, async functions only: a sync one would bring the thread hops back."""
        handler: Any = self.respond
        for path in reversed(settings.API_MIDDLEWARE):
            middleware = import_string(path)
            if not getattr(middleware, "async_capable", False):
                raise TypeError(f"{path} cannot stand behind the API door: it is not async.")
            handler = middleware(handler)
        self._middleware_chain = handler

    async def respond(self, request: HttpRequest) -> HttpResponseBase:
        """Find the view and ask it: no transactions, no view middlewares, no templates. Views are async."""
        match = request.resolver_match = resolved(request.path_info)
        response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
        return response

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if self.calls >= self.max_calls:
            await answer(
                error_response(Unavailable("Too many calls at once. Please try again later.", retry_after=1)), send
            )
            return
        self.calls += 1
        try:
            await self.serve(scope, receive, send)
        except ClientGone:
            pass
        finally:
            self.calls -= 1

    async def serve(self, scope: Scope, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        caller = await find_caller(scope, headers)
        scope["gatehouse.caller"] = caller
        body = b""
        if caller.context is not None:
            try:
                body = await read_body(scope, receive, headers.get("content-length", ""), self.max_body)
                if encoding := headers.get("content-encoding"):
                    body = await asyncio.to_thread(unpacked, body, encoding, self.max_body)
            except GeminiError as trouble:
                scope["gatehouse.body_error"] = trouble
        elif "content-length" in headers or "transfer-encoding" in headers:
            scope["gatehouse.close"] = True  # what it sends stays unread

        connection: GuardedProtocol = scope["gatehouse.connection"]
        me = asyncio.current_task()
        assert me is not None
        if connection.lost:
            return
        connection.call = me
        try:
            await self.call(scope, headers, body, send)
        except asyncio.CancelledError:
            if not connection.lost:
                raise  # not the client: the process is being stopped
            me.uncancel()
        finally:
            if connection.call is me:
                connection.call = None

    async def call(self, scope: Scope, headers: dict[str, str], body: bytes, send: Any) -> None:
        try:
            request = ApiRequest(scope, headers, body)
        except UnicodeDecodeError:
            await answer(error_response(InvalidArgument("The request line must be UTF-8.")), send)
            return
        try:
            response: HttpResponseBase = await self._middleware_chain(request)
        except Exception:
            logger.exception("A call failed outside its view")
            response = error_response(GeminiError())
        if scope.get("gatehouse.close"):
            response.headers["Connection"] = "close"
        if isinstance(response, StreamedAnswer):
            await stream(response, send)
        else:
            await answer(response, send)


@lru_cache(maxsize=2048)
def resolved(path: str) -> ResolverMatch:
    """Raises Resolver404, which is not remembered."""
    return get_resolver().resolve(path)


async def find_caller(scope: Scope, headers: dict[str, str]) -> Caller:
    """Who calls, from the head alone. Also takes `?key=` out of the query, so that nothing later can log it."""
    secret, source = secrets.presented(headers, scope["query_string"])
    if scope["query_string"]:
        scope["query_string"] = secrets.without_credential(scope["query_string"])
    address = scope["client"][0] if scope.get("client") else ""
    return lookup.cached(secret, source, address) or await lookup.find(secret, source, address)


async def read_body(scope: Scope, receive: Any, declared: str, cap: int) -> bytes:
    """The whole body in memory, under a cap on declared and on received bytes. Deadlines are the guard's."""
    if declared and int(declared) > cap:
        scope["gatehouse.close"] = True
        raise TooLarge(f"The request is larger than {cap} bytes.")
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > cap:
            scope["gatehouse.close"] = True
            raise TooLarge(f"The request is larger than {cap} bytes.")
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpacked(body: bytes, encoding: str, cap: int) -> bytes:
    """A body that the client compressed, under the cap once more. Raises GeminiError."""
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise InvalidArgument(f"The content encoding {encoding!r} is not supported; gzip is.")
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header
    try:
        whole = unpacking.decompress(body, cap + 1)
    except zlib.error:
        raise InvalidArgument("The request body is not gzip, although its content encoding says so.") from None
    if len(whole) > cap:
        raise TooLarge(f"The request is larger than {cap} bytes.")
    if not unpacking.eof:
        raise InvalidArgument("The request body ends in the middle of its gzip data.")
    return whole


async def answer(response: HttpResponseBase, send: Any) -> None:
    assert isinstance(response, HttpResponse)
    content = response.content
    if not response.has_header("x-request-id"):  # refused before it became a call: still something to ask us about
        response.headers["x-request-id"] = uuid7_text()
    head = head_of(response)
    head.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": head})
    await send({"type": "http.response.body", "body": content})


async def stream(response: StreamedAnswer, send: Any) -> None:
    """Hand on what comes. However this ends, the call is finished and everything below it closed.

    What follows the first chunk goes in a task of its own: whatever an await stands under is woken with each chunk, and
    above this stand the whole door and the server's own coroutines.
    """
    try:
        async with aclosing(response.chunks) as chunks:
            await send({"type": "http.response.start", "status": response.status_code, "headers": head_of(response)})
            await send({"type": "http.response.body", "body": chunks.take_first(), "more_body": True})
            await asyncio.create_task(hand_on(chunks.rest, send))
    finally:
        response.left()


async def hand_on(chunks: AsyncIterator[bytes], send: Any) -> None:
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def head_of(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    # Not by `items()`: that looks each of them up once more.
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.headers._store.values()]
