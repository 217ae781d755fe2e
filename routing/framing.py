"""Bytes from an upstream into Frames. No I/O: feed bytes, get frames, in whatever pieces the network cuts them."""

from __future__ import annotations

import base64
import struct
from functools import lru_cache
from typing import NamedTuple, Protocol
from zlib import crc32

from lib import json
from routing.errors import UpstreamError

MAX_LINE = 8 * 1024 * 1024  # bytes of one line, and of one event
ENDED = [b"", b""]  # the last lines of data that ends with a blank one


class Frame(NamedTuple):
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
        self._between = False  # nothing of an event, or of a line, is held

    def feed(self, data: bytes) -> list[Frame]:
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data[-1:] == b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._between = False
            self._hold(data)
            return []
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces, self._held = [], 0
        lines = data.split(b"\n")
        if self._between and lines[-2:] == ENDED and len(data) <= self._max:
            # What nearly all networks bring: one event of one line of data, with or without a name, as a whole.
            if len(lines) == 3 and lines[0][:6] == b"data: " and lines[0] != b"data: ":
                return [Frame(lines[0][6:])]
            if len(lines) == 4 and lines[0][:7] == b"event: " and lines[1][:6] == b"data: " and lines[1] != b"data: ":
                return [Frame(lines[1][6:], _name(lines[0]))]
        rest = lines.pop()
        self._hold(rest)
        frames: list[Frame] = []
        for line in lines:
            self._line(line, frames)
        self._between = not (rest or self._data or self._bare or self._event)
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
            self._event = _name(line)
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


def _name(line: bytes) -> str:
    return line[6:].strip().decode("utf-8", "replace")


def _whole(text: bytes) -> bool:
    if not text:
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text == b"[DONE]"
    return True


class EventStreamDecoder:
    """AWS event stream frames (`application/vnd.amazon.eventstream`), both checksums verified.

    total length, length of headers, CRC-32 of these eight bytes; headers; payload; CRC-32 of all before it: each number
    four bytes, the first one highest. (https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html)

    A `chunk` event of InvokeModelWithResponseStream is unwrapped: its frame is the vendor's own event, nameless,
    as if it had come by SSE. A frame with `:message-type` exception or error has `exception` set; its `event` is
    the exception's type, its data `{"message": ...}`.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # a frame that has no end yet; joined once, when its end comes
        self._held = 0
        self._wanted = PRELUDE.size

    def feed(self, data: bytes) -> list[Frame]:
        self._pieces.append(data)
        self._held += len(data)
        if self._held < self._wanted:
            return []
        data = data if len(self._pieces) == 1 else b"".join(self._pieces)
        try:
            frames, end = self._whole(data)
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise UpstreamError("cut", f"The upstream's event stream is damaged: {error}.") from error
        rest = data[end:]
        self._pieces, self._held = [rest] if rest else [], len(rest)
        return frames

    def finish(self) -> list[Frame]:
        if self._held:
            raise UpstreamError("cut", "The upstream's event stream ended inside a frame.")
        return []

    def _whole(self, data: bytes) -> tuple[list[Frame], int]:
        """The whole frames in `data`, and where the last one ends."""
        frames: list[Frame] = []
        at, self._wanted = 0, PRELUDE.size
        while len(data) - at >= PRELUDE.size:
            total, headers, checksum = PRELUDE.unpack_from(data, at)
            if crc32(data[at : at + 8]) != checksum:
                raise ValueError("a frame's lengths fail their checksum")
            if not 0 <= total - headers - PRELUDE.size - 4 <= MAX_PAYLOAD or headers > MAX_HEADERS:
                raise ValueError("a frame's lengths cannot be right")
            if len(data) - at < total:
                self._wanted = total
                break
            end = at + total - 4
            if crc32(data[at:end]).to_bytes(4) != data[end : end + 4]:
                raise ValueError("a frame fails its checksum")
            begin = at + PRELUDE.size
            frames.append(_frame(data[begin : begin + headers], data[begin + headers : end]))
            at = end + 4
        return frames, at


def _frame(head: bytes, payload: bytes) -> Frame:
    headers = _usual(head) if len(head) < 512 else event_headers(head)
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


PRELUDE = struct.Struct(">III")
MAX_HEADERS, MAX_PAYLOAD = 128 * 1024, 24 * 1024 * 1024  # bytes; as botocore's parser has it
# Types of header values whose size is fixed: two booleans, numbers, a time, a UUID. Nothing here reads those.
SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
BYTES, TEXT = 6, 7


def event_headers(head: bytes) -> dict[str, str]:
    """The headers of a frame that are text. Raises ValueError, KeyError or struct.error.

    Name with its length in one byte, type in one byte, value; texts and bytes have their length in two bytes before them.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(head):
        begin = at + 1
        at = begin + head[at]
        name, (kind,) = head[begin:at].decode(), struct.unpack_from("B", head, at)
        at += 1
        size = SIZES[kind] if kind not in (BYTES, TEXT) else struct.unpack_from(">H", head, at)[0]
        at += 2 if kind in (BYTES, TEXT) else 0
        if at + size > len(head):
            raise ValueError("a header is longer than its frame says")
        if name in found:
            raise ValueError(f"the header {name[:40]!r} stands there twice")
        if kind == TEXT:
            found[name] = head[at : at + size].decode()
        at += size
    return found


# A stream says the same few again and again. What it returns is never changed.
_usual = lru_cache(maxsize=256)(event_headers)
