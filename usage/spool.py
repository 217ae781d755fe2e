"""The spool: finished calls wait here, on disk, until the ledger has them. One write a line, safe from `kill -9`.

A process owns segments: append-only files `<owner>-<number>.spool` in DATA_DIR/spool, each under an exclusive flock
for as long as the process lives. A process that starts, and any process now and then, adopts the segments of owners
whose locks are gone. A line is

    length (8 hex) space crc32 (8 hex) space kind payload newline

where kind is S (a call reached an upstream) or F (a call has ended) and the payload is JSON without a raw newline. A
line that was cut short fails its length or checksum and harms no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from lib.ids import uuid7

logger = logging.getLogger(__name__)

STARTED, FINISHED = b"S", b"F"
MAX_BYTES = 8 * 1024 * 1024  # a segment this large is closed
MAX_AGE = 30.0  # seconds after which a segment with lines in it is closed
READ_BYTES = 2 * 1024 * 1024
LEFT_OVER = 60.0  # seconds after which a half-made file is nobody's
MAX_KEPT = 100_000  # lines kept in memory while the disk is full
_HEAD = 18  # bytes before kind and payload


class SpoolFull(Exception):
    """The line could not be written: the disk is full or broken. New calls must be refused."""


def encode(kind: bytes, payload: bytes) -> bytes:
    body = kind + payload
    return b"%08x %08x %b\n" % (len(body), crc32(body), body)


def decode(line: bytes) -> tuple[bytes, bytes] | None:
    """(kind, payload) of a line without its newline; None when it is damaged."""
    body = line[_HEAD:]
    try:
        length, checksum = int(line[:8], 16), int(line[9:17], 16)
    except ValueError:
        return None
    if length != len(body) or checksum != crc32(body):
        return None
    return body[:1], body[1:]


@dataclass(slots=True)
class Lines:
    """What was read from a segment. damaged: raw lines that fail their checksum. end: where to read on."""

    whole: list[tuple[bytes, bytes]] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    end: int = 0


@dataclass(eq=False)
class Segment:
    """One file. `sealed`: nobody appends any more. `read`: bytes the ledger is done with.

    waiting: calls that started in this file and have not ended anywhere; the file stays until they have.
    """

    path: Path
    fd: int
    size: int = 0
    read: int = 0
    sealed: bool = False
    opened: float = field(default_factory=time.monotonic)
    waiting: set[str] = field(default_factory=set)

    def lines(self, limit: int = READ_BYTES) -> Lines:
        """The next whole lines. While somebody appends, a damaged line may just not be whole yet: reading stops there."""
        data = os.pread(self.fd, limit, self.read)
        found, at = Lines(end=self.read), 0
        while (stop := data.find(b"\n", at)) >= 0:
            if (line := decode(data[at:stop])) is not None:
                found.whole.append(line)
            elif self.sealed:
                found.damaged.append(data[at:stop])
            else:
                break
            at = stop + 1
        if not at and self.sealed and data:
            if len(data) == limit:
                return self.lines(limit * 4)  # one line longer than a reading
            found.damaged.append(data)  # a torn end
            at = len(data)
        found.end += at
        return found

    @property
    def drained(self) -> bool:
        return self.sealed and self.read >= os.fstat(self.fd).st_size

    def remove(self) -> None:
        """Delete first, unlock second: nobody can adopt what is already in the database."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Spool:
    """The segments of this process. `append` belongs to the event loop; the ledger's thread reads beside it."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float = MAX_AGE,
        consequence: str = "new calls are refused",
    ) -> None:
        """consequence: what a disk that takes nothing means, for the log."""
        self.directory = directory
        self.owner = uuid7().hex
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.consequence = consequence
        self.segments: list[Segment] = []
        self.pending = 0  # lines appended since the ledger last looked
        self.wake: Callable[[], None] = lambda: None  # called when a batch is full
        self.batch = 2_000
        self._number = 0
        self._lock = threading.Lock()
        self._kept: list[bytes] = []
        self._current: Segment | None = None
        self.healthy = True
        directory.mkdir(parents=True, exist_ok=True)

    def waiting_bytes(self) -> int:
        """Bytes that the ledger has not taken yet."""
        return sum(segment.size - segment.read for segment in list(self.segments))

    def append(self, kind: bytes, payload: bytes) -> None:
        """One line, one write. Raises SpoolFull."""
        line = encode(kind, payload)
        with self._lock:
            self._write(line)

    def keep(self, kind: bytes, payload: bytes) -> None:
        """Like `append`, for a call that cannot be undone any more: on a full disk the line waits in memory."""
        line = encode(kind, payload)
        with self._lock:
            try:
                self._write(line)
            except SpoolFull:
                if len(self._kept) >= MAX_KEPT:
                    logger.critical("The spool is full and so is its memory: the end of a call is lost.")
                else:
                    self._kept.append(line)

    def _write(self, line: bytes) -> None:
        current = self._current
        if current is None or current.size >= self.max_bytes:
            current = self._next()
        try:
            written = os.write(current.fd, line)
        except OSError as error:
            self._broken(error)
            raise SpoolFull(str(error)) from error
        if written != len(line):  # half a line: take it back, or it would spoil the next one
            with contextlib.suppress(OSError):
                os.ftruncate(current.fd, current.size)
            self._broken(OSError("short write"))
            raise SpoolFull("The disk is full.")
        current.size += written
        self.pending += 1
        if self.pending == self.batch:
            self.wake()

    def _broken(self, error: OSError) -> None:
        if self.healthy:
            logger.error("The spool cannot be written (%s): %s.", error, self.consequence)
        self.healthy = False

    def _next(self) -> Segment:
        """Seal the current segment and open another. It gets its name only under its lock."""
        self._seal()
        self._number += 1
        path = self.directory / f"{self.owner}-{self._number:06d}.spool"
        draft = path.with_suffix(".new")
        try:
            fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.rename(path)
        except OSError as error:
            self._broken(error)
            raise SpoolFull(str(error)) from error
        self._current = Segment(path, fd)
        self.segments.append(self._current)
        return self._current

    def _seal(self) -> None:
        if self._current is not None:
            self._current.sealed = True
            self._current = None

    def tend(self) -> None:
        """What is due now and then: write what waits in memory, close a segment that is old enough."""
        with self._lock:
            if not self.healthy:
                self._recover()
            current = self._current
            if current is not None and current.size and time.monotonic() - current.opened >= self.max_age:
                self._seal()

    def _recover(self) -> None:
        kept, self._kept = self._kept, []
        try:
            for index, line in enumerate(kept):  # noqa: B007 - read after the loop broke
                self._write(line)
            if not kept:
                self._probe()
        except SpoolFull:
            self._kept = kept[index:] if kept else []
        else:
            self.healthy = True
            logger.warning("The spool can be written again.")

    def _probe(self) -> None:
        """Find out whether the disk takes a block again, without writing a line."""
        path = self.directory / f"{self.owner}.probe"
        try:
            path.write_bytes(b"\0" * 65536)
        except OSError as error:
            raise SpoolFull(str(error)) from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def sync(self) -> None:
        """fsync what was written so far: it then survives a power cut too."""
        for segment in list(self.segments):
            if segment.fd >= 0 and segment.read < segment.size:
                os.fsync(segment.fd)

    def forget(self, segment: Segment) -> None:
        """The database has all of it."""
        with self._lock:
            self.segments.remove(segment)
        segment.remove()

    def close(self) -> None:
        """Give up the locks. What the database does not have yet stays for whoever adopts it."""
        with self._lock:
            self._seal()
            for segment in self.segments:
                if segment.drained and not segment.waiting:
                    segment.remove()
                else:
                    segment.close()
            self.segments.clear()


def adopt(directory: Path) -> list[list[Segment]]:
    """The segments of owners that are gone, by owner, oldest first, each under our lock now."""
    _sweep(directory)
    by_owner: dict[str, list[Path]] = {}
    for path in sorted(directory.glob("*-*.spool")):
        by_owner.setdefault(path.name.partition("-")[0], []).append(path)
    return [segments for paths in by_owner.values() if (segments := _take(paths))]


def _sweep(directory: Path) -> None:
    """Files of a process that died while it made them: empty, and nobody's."""
    for path in (*directory.glob("*.new"), *directory.glob("*.probe")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink()


def _take(paths: list[Path]) -> list[Segment]:
    """All of one owner's files, or none: it may be alive, or another process may have been first."""
    taken: list[Segment] = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = os.stat(path).st_ino == os.fstat(fd).st_ino
        except BlockingIOError:
            os.close(fd)
            for segment in taken:
                segment.close()
            return []
        except FileNotFoundError:
            there = False
        if there:
            taken.append(Segment(path, fd, size=os.fstat(fd).st_size, sealed=True))
        else:
            os.close(fd)
    return taken


_spool: Spool | None = None


def open_in(directory: Path) -> Spool:
    """Open this process's spool."""
    global _spool
    if _spool is not None:
        raise RuntimeError("The spool is open already.")
    _spool = Spool(directory)
    return _spool


def current() -> Spool:
    """This process's spool. Raises RuntimeError before `open_in`."""
    if _spool is None:
        raise RuntimeError("The spool is not open: usage.ledger.open() comes first.")
    return _spool


def healthy() -> bool:
    """Whether calls may be taken: their end can be written down."""
    return _spool is not None and _spool.healthy


def full() -> bool:
    """Whether this process has a spool that takes no more lines."""
    return _spool is not None and not _spool.healthy


def close() -> None:
    global _spool
    if _spool is not None:
        _spool.close()
        _spool = None
