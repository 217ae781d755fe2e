"""Bodies: what was asked and answered, of calls whose key says so. Sealed before any of it touches a disk.

    flight.kept = bodies.begin(key, call.body)     # None, and nothing more to do, unless the key's switch is on
    flight.kept.add(piece)                         # of the answer, as it leaves
                                                   # the flight hands it over when it has ended

A call never waits for this and never fails by it. A thread seals what was handed over and appends it to a spool of its
own (DATA_DIR/bodies), which outlives a killed process like the spool of usage; what waits for that thread is bounded,
and so is what waits on disk. Whatever does not fit is not kept, and counted (gatehouse_bodies_lost).

Of a request only its body is kept: keys come in headers and addresses, and one that was pasted into a prompt is masked.
Images, sound and documents inside it are replaced by a note.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.context import KeyContext
from lib import json, metrics
from routing import credentials
from usage.spool import Spool, SpoolFull

logger = logging.getLogger(__name__)

PURPOSE: Final = "body"
KEPT: Final = b"B"  # the kind of a line in the spool
MOST_HANDED: Final = 64 * 1024 * 1024  # bytes in memory that wait to be sealed
MOST_SPOOLED: Final = 256 * 1024 * 1024  # bytes on disk that wait for the database
SMALL: Final = 2_048  # characters of base64 that stay as they are
LARGE_PIECE: Final = 8_192  # bytes of an answer's piece from which on it may hold media
LAST: Final = 5.0  # seconds that close() gives what was handed over

_SECRETS: Final = re.compile(rb"gate_[0-9A-Za-z]{46}|AIza[\w-]{35}")
_DATA: Final = re.compile(rb'"data"\s*:\s*"')
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_\\-]{64}")
_MIME: Final = re.compile(rb'"mime_?[tT]ype"\s*:\s*"([\w.+/; =-]{1,100})"')


class Kept:
    """Request and answer of one call under way. most: bytes that are kept of each."""

    __slots__ = ("_most", "_pieces", "_size", "request", "whole")

    def __init__(self, request: bytes, most: int) -> None:
        self.request = request
        self.whole = True  # nothing of the answer was cut off
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """A piece of the answer, as it leaves."""
        if not self.whole:
            return
        if len(piece) > LARGE_PIECE:
            piece = without_media(piece)
        self._pieces.append(piece[: self._most - self._size])
        self._size += len(piece)
        self.whole = self._size <= self._most

    @property
    def answer(self) -> bytes:
        return b"".join(self._pieces)


@dataclass(frozen=True, slots=True)
class Handed:
    """What the thread seals. at_ms: Unix milliseconds."""

    call_id: str
    organization_id: str
    key_id: str
    at_ms: int
    request: bytes
    answer: bytes
    whole: bool

    @property
    def size(self) -> int:
        return len(self.request) + len(self.answer) + 1_024  # and what it takes to hold them


class Writer:
    """Seals what is handed over and appends it to its spool, in a thread of its own."""

    def __init__(self, directory: Path, most: int) -> None:
        self.most = most
        self.spool = Spool(directory, consequence="requests and answers are not kept")
        self._queue: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._waiting = 0  # bytes
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bodies", daemon=True)
        self._thread.start()

    def hand_over(self, handed: Handed) -> None:
        """Never waits. What does not fit beside what waits already is not kept."""
        with self._lock:
            fits = not self._waiting or self._waiting + handed.size <= MOST_HANDED
            if fits:
                self._waiting += handed.size
        if fits:
            self._queue.put(handed)
        else:
            lost("busy")

    def close(self) -> None:
        """Write what was handed over, as long as LAST allows."""
        self._queue.put(None)
        self._thread.join(LAST)

    def _run(self) -> None:
        while (handed := self._queue.get()) is not None:
            try:
                self._write(handed)
            except SpoolFull:
                lost("disk")
            except Exception:
                logger.exception("A request and its answer could not be kept")
                lost("trouble")
            finally:
                with self._lock:
                    self._waiting -= handed.size

    def _write(self, handed: Handed) -> None:
        if self.spool.waiting_bytes() > MOST_SPOOLED:
            raise SpoolFull("The database has not taken what waits already.")
        line = {
            "call_id": handed.call_id,
            "organization_id": handed.organization_id,
            "key_id": handed.key_id,
            "at_ms": handed.at_ms,
            "sealed": credentials.seal_text(
                PURPOSE, handed.call_id, plain(handed, self.most), organization=handed.organization_id
            ),
        }
        self.spool.append(KEPT, json.dumps(line))


def plain(handed: Handed, most: int) -> str:
    """What is sealed: JSON with `request`, `answer` (texts), and for each whether it is whole."""
    request = masked(without_media(handed.request))
    return json.dumps(
        {
            "request": request[:most].decode("utf-8", "replace"),
            "request_whole": len(request) <= most,
            "answer": masked(handed.answer).decode("utf-8", "replace"),
            "answer_whole": handed.whole,
        }
    ).decode()


def masked(text: bytes) -> bytes:
    return _SECRETS.sub(b"(a key)", text)


def without_media(text: bytes) -> bytes:
    """The same JSON with a note in place of inline base64 (`inlineData` in any spelling) that is not small.

    Read by its bytes: 20 MB are not to be parsed for this, and what is no JSON has no media to find.
    """
    pieces: list[bytes] = []
    done, found = 0, text.find(b'"data"')
    while found >= 0:
        after = found + 6
        if opening := _DATA.match(text, found):
            start = opening.end()
            end = text.find(b'"', start)
            after = len(text) if end < 0 else end
            if after - start > SMALL and _BASE64.match(text, start):
                pieces += [text[done:start], _note(text, found, start, after)]
                done = after
        found = text.find(b'"data"', after)
    return b"".join([*pieces, text[done:]]) if pieces else text


def _note(text: bytes, name: int, start: int, end: int) -> bytes:
    """What stands for the media from start to end: its type, when the object it is in (it holds no other) tells."""
    before = text[max(name - 300, 0) : name].rpartition(b"{")[2]
    behind = text[end : end + 300].partition(b"}")[0]
    mime = _MIME.search(before) or _MIME.search(behind)
    size = (end - start) * 3 // 4
    return b"(%b, %d bytes, not kept)" % (mime[1] if mime else b"media", size)


def lost(reason: str) -> None:
    metrics.BODIES_LOST.labels(reason).inc()


_writer: Writer | None = None


def open_in(directory: Path, most: int) -> Writer:
    """Begin to keep: at most `most` bytes of a request and of an answer."""
    global _writer
    if _writer is not None:
        raise RuntimeError("Bodies are kept already.")
    _writer = Writer(directory, most)
    return _writer


def close() -> None:
    global _writer
    if _writer is not None:
        _writer.close()
        _writer = None


def begin(key: KeyContext, request: bytes) -> Kept | None:
    """Something to note the answer in; None unless this key's bodies are kept, and kept here at all."""
    return Kept(request, _writer.most) if key.log_bodies and _writer is not None else None


def hand_over(kept: Kept, call_id: str, key: KeyContext, at_ms: int) -> None:
    """The call has ended, in whatever way."""
    if _writer is not None:
        _writer.hand_over(
            Handed(call_id, key.organization_id, key.key_id, at_ms, kept.request, kept.answer, kept.whole)
        )
