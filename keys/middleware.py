"""The middleware that attaches who calls. It never answers: policy and the views say no."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from keys import lookup, secrets
from keys.context import Caller

Next = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class KeyedRequest(HttpRequest):
    """A request behind VirtualKeyMiddleware. For annotations: Django makes its own kind, we add an attribute."""

    caller: Caller


class VirtualKeyMiddleware:
    """Sets `request.caller`. Async only; under a synchronous handler Django adapts it.

    The lean door has looked the key up already, from the request head, and left the caller in the scope.
    """

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Next) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        scope = getattr(request, "scope", None)
        found = scope.get("gatehouse.caller") if scope is not None else None
        cast(KeyedRequest, request).caller = found or await _look_up(request)
        return await self.get_response(request)


async def _look_up(request: HttpRequest) -> Caller:
    meta = request.META
    headers = {
        "x-goog-api-key": meta.get("HTTP_X_GOOG_API_KEY", ""),
        "authorization": meta.get("HTTP_AUTHORIZATION", ""),
    }
    secret, source = secrets.presented(headers, meta.get("QUERY_STRING", "").encode())
    return await lookup.find(secret, source, meta.get("REMOTE_ADDR", ""))
