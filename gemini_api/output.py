"""What leaves: one JSON object, server-sent events, or a JSON array. Framing exactly as the official clients need it.

Events are `data: {json}`, a blank line, and nothing else: no comments, no names, no [DONE] (clients break on each).
An error after the first chunk is written twice, once as an event and once bare in a write of its own, because
each form alone is missed by some client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from http.cookies import SimpleCookie
from typing import Any, Protocol

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders

from gemini_api.errors import GeminiError
from lib import json

Json = dict[str, Any]
JSON_TYPE = "application/json; charset=UTF-8"
SSE_TYPE = "text/event-stream"


class Framing(Protocol):
    """How chunks become bytes. `first` tells whether nothing has left yet."""

    content_type: str

    def chunk(self, payload: bytes, *, first: bool) -> bytes: ...
    def error(self, error: GeminiError, *, first: bool) -> list[bytes]: ...
    def end(self, *, first: bool) -> bytes: ...


class Events:
    """alt=sse."""

    content_type = SSE_TYPE

    def chunk(self, payload: bytes, *, first: bool) -> bytes:
        return b"data: " + payload + b"\n\n"

    def error(self, error: GeminiError, *, first: bool) -> list[bytes]:
        payload = json.dumps_line(error.body())
        return [b"data: " + payload + b"\n\n", payload]

    def end(self, *, first: bool) -> bytes:
        return b""


class Array:
    """No alt: the chunks as one JSON array, written as they come."""

    content_type = JSON_TYPE

    def chunk(self, payload: bytes, *, first: bool) -> bytes:
        return (b"[" if first else b",\r\n") + payload

    def error(self, error: GeminiError, *, first: bool) -> list[bytes]:
        payload = json.dumps_line(error.body())
        return [(b"[" if first else b",\r\n") + payload + b"]"]

    def end(self, *, first: bool) -> bytes:
        return b"[]" if first else b"]"


class Noted:
    """Another framing, with every piece of an answer told to somebody before it leaves. A failure is told elsewhere."""

    def __init__(self, framing: Framing, note: Callable[[bytes], None]) -> None:
        self.content_type = framing.content_type
        self._framing = framing
        self._note = note

    def chunk(self, payload: bytes, *, first: bool) -> bytes:
        piece = self._framing.chunk(payload, first=first)
        self._note(piece)
        return piece

    def error(self, error: GeminiError, *, first: bool) -> list[bytes]:
        return self._framing.error(error, first=first)

    def end(self, *, first: bool) -> bytes:
        piece = self._framing.end(first=first)
        self._note(piece)
        return piece


EVENTS = Events()
ARRAY = Array()


class Begun:
    """A generator that has given its first piece already."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        self._first = first
        self.rest = rest

    def take_first(self) -> bytes:
        """Only once: a picture is not kept for as long as its stream lasts."""
        first, self._first = self._first, b""
        return first

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.take_first()
        async for piece in self.rest:
            yield piece

    async def aclose(self) -> None:
        await self.rest.aclose()


class StreamedAnswer(StreamingHttpResponse):
    """A stream of bytes that the API door iterates itself.

    chunks: closing it closes everything below. left: called once it is over, in whatever
    way, and never waits; finishing an already finished call is harmless.
    """

    def __init__(self, chunks: Begun, *, content_type: str, left: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(chunks, content_type=content_type, headers=headers)
        self.chunks = chunks
        self.left = left
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"


class WholeAnswer(HttpResponse):
    """Django's response without its constructor, which takes long to find out charset and content type."""

    def __init__(self, payload: bytes, status: int, headers: dict[str, str]) -> None:
        self.headers = ResponseHeaders(headers)
        self.status_code = status
        self.cookies = SimpleCookie()
        self.closed = False
        self._container = [payload]
        self._charset = self._reason_phrase = self._handler_class = None
        self._resource_closers: list[Any] = []


def json_response(payload: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> HttpResponse:
    return WholeAnswer(payload, status, {"Content-Type": JSON_TYPE, "Cache-Control": "no-store", **(headers or {})})


def error_response(error: GeminiError) -> HttpResponse:
    return json_response(json.dumps_line(error.body()), status=error.code, headers=error.headers())
