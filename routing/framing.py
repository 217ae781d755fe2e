"""Bytes from an upstream into Frames. No I/O: feed bytes, get frames, in whatever pieces the network cuts them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lib import json
from routing.errors import UpstreamError

MAX_LINE = 8 * 1024 * 1024  # bytes of one line, and of one event


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream.

    event: the SSE event name, or the AWS event (or exception) type; "" when there is none.
    data: the payload, JSON bytes as they came.
    exception: the upstream marked this frame as an error by its framing (AWS `:message-type`).
    """

    data: bytes
    event: str = ""
    exception: bool = False


class Decoder(Protocol):
    """Both decoders. `feed` and `finish` raise UpstreamError when the bytes are not what they should be."""

    def feed(self, data: bytes) -> list[Frame]: ...
    def finish(self) -> list[Frame]: ...


class SSEDecoder:
    """Server-sent events, by bytes: a line ends at CR, LF or CRLF and nowhere else.

    Unicode line splitting would also cut at U+2028 and its kin, which stand unescaped inside vendors' JSON.

    JSON that stands bare between events (Gemini reports an error in the middle of a stream that way, compact or
    pretty-printed) becomes a Frame like any other. `data: [DONE]` is a Frame too: its meaning is the vendor's.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max = max_line
        self._pieces: list[bytes] = []  # a line that has no end yet; joined once, when its end comes
        self._held = 0
        self._after_cr = False
        self._first = True
        self._event = ""
        self._data: list[bytes] = []
        self._data_size = 0
        self._bare: list[bytes] = []

    def feed(self, data: bytes) -> list[Frame]:
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data[-1:] == b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._hold(data)
            return []
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces, self._held = [], 0
        *lines, rest = data.split(b"\n")
        self._hold(rest)
        frames: list[Frame] = []
        for line in lines:
            self._line(line, frames)
        return frames

    def finish(self) -> list[Frame]:
        """What is left at the end: a last event whose blank line never came counts if its data is whole."""
        frames: list[Frame] = []
        last, self._pieces, self._held = b"".join(self._pieces), [], 0
        if last:
            self._line(last, frames)
        left = [b"\n".join(self._bare), b"\n".join(self._data)]
        frames += [Frame(each, self._event) for each in left if _whole(each)]
        self._bare, self._data, self._data_size = [], [], 0
        return frames

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._held += len(piece)
            self._check(self._held)

    def _check(self, size: int) -> None:
        if size > self._max:
            raise UpstreamError("protocol", f"The upstream sent a line of more than {self._max} bytes.")

    def _line(self, line: bytes, frames: list[Frame]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if self._bare:
            self._bare_line(line, frames)
        elif line[:5] == b"data:":
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data_size += len(value) + 1
            self._check(self._data_size)
            self._data.append(value)
        elif not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if data:
                    frames.append(Frame(data, self._event))
                self._data, self._data_size = [], 0
            self._event = ""
        elif line[:6] == b"event:":
            self._event = line[6:].strip().decode("utf-8", "replace")
        elif line[:1] in (b"{", b"[") and not self._data:
            self._bare_line(line, frames)

    def _bare_line(self, line: bytes, frames: list[Frame]) -> None:
        """JSON without `data:`. Pretty-printed it closes with a bracket in the first column: only then parse."""
        first = not self._bare
        self._bare.append(line)
        self._data_size += len(line) + 1
        self._check(self._data_size)
        closes = line[:1] in (b"}", b"]") or (first and line.rstrip()[-1:] in (b"}", b"]"))
        if closes or not line:
            text = b"\n".join(self._bare).strip()
            whole = _whole(text)
            if whole:
                frames.append(Frame(text, self._event))
            if whole or not line:  # a blank line ends it in any case: what is no JSON by then is let go
                self._bare, self._data_size, self._event = [], 0, ""


def _whole(text: bytes) -> bool:
    if not text:
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text == b"[DONE]"
    return True


class EventStreamDecoder:
    """AWS event stream frames (`application/vnd.amazon.eventstream`), both checksums verified, by botocore's parser.

    A `chunk` event of InvokeModelWithResponseStream is unwrapped: its frame is the vendor's own event, nameless,
    as if it had come by SSE. A frame with `:message-type` exception or error has `exception` set; its `event` is
    the exception's type, its data `{"message": ...}`.
    """

    def __init__(self) -> None:
        from botocore import eventstream  # noqa: PLC0415 - 30 MB of package that only this backend needs

        self._buffer: Any = eventstream.EventStreamBuffer()
        self._broken: type[Exception] = eventstream.ParserError
        self._taken = 0
        self._fed = 0

    def feed(self, data: bytes) -> list[Frame]:
        self._fed += len(data)
        try:
            self._buffer.add_data(data)
            return [self._frame(message) for message in self._buffer]
        except (self._broken, KeyError, TypeError, ValueError) as error:
            raise UpstreamError(
                "protocol", f"The upstream's event stream is damaged: {type(error).__name__}."
            ) from error

    def finish(self) -> list[Frame]:
        if self._fed != self._taken:
            raise UpstreamError("cut", "The upstream's event stream ended inside a frame.")
        return []

    def _frame(self, message: Any) -> Frame:
        self._taken += message.prelude.total_length
        headers: Mapping[str, Any] = message.headers
        payload: bytes = message.payload
        match headers.get(":message-type"):
            case "exception":
                return Frame(payload or b"{}", str(headers.get(":exception-type", "")), exception=True)
            case "error":
                said = {"message": str(headers.get(":error-message", ""))}
                return Frame(json.dumps(said), str(headers.get(":error-code", "")), exception=True)
        event = str(headers.get(":event-type", ""))
        if event == "chunk":
            wrapped = json.loads(payload)
            return Frame(base64.b64decode(wrapped["bytes"], validate=True))
        return Frame(payload, event)
