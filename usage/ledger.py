"""The ledger: what the spool holds goes into the database, each call once, its roll-ups in the same transaction.

A thread of its own drains, with a database connection of its own: the event loop never waits for it. When the
database is gone the spool grows and the thread tries again; a line the database cannot take goes to quarantine and
the rest goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from lib import json
from lib.bounded import forget_oldest
from usage import records, rollups, spool
from usage.models import QuarantinedEvent
from usage.pump import Pump
from usage.records import AT
from usage.spool import FINISHED, STARTED, Segment, Spool

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks at the spool
SYNC_TICK = 0.05  # the same when every look ends with an fsync
BATCH = 5_000  # calls in one transaction at most
ADOPT_EVERY = 30.0  # seconds
DAY_MS = 86_400_000
LABELS = 1_000  # of one key in one day
OTHER = "other"
KEY_DAYS = 5_000  # whose labels a process remembers

_NAMESPACE = uuid.UUID("5b0f4f7a-3c1b-4a57-9b8e-2f1de7a5c3a1")  # ids of quarantined lines are made from their text


@dataclass(slots=True)
class Call:
    """One event on its way into the database."""

    line: bytes
    row: records.Row


class Labels:
    """How many labels there may be: each has roll-ups of its own, and whoever holds a key writes what they like.

    Of one key in one UTC day the first LABELS are kept, further calls are recorded under OTHER. Each process counts for
    itself and begins anew with each start, so there may be a few times as many, but not without end.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], set[str]] = {}  # by key and day, oldest first

    def bounded(self, row: records.Row) -> records.Row:
        label = row[AT["label"]]
        if not label:
            return row
        place = (row[AT["key_id"]], records.call_ms(row) // DAY_MS)
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = set()
            forget_oldest(self._known, KEY_DAYS)
        if label not in known:
            if len(known) >= LABELS:
                return (*row[: AT["label"]], OTHER, *row[AT["label"] + 1 :])
            known.add(label)
        return row


class Drain:
    """Takes lines from segments and puts them into the database. One thread's own."""

    def __init__(self, own: Spool, retention_days: int) -> None:
        self._own = own
        self._retention_days = retention_days
        self._started: dict[str, tuple[Segment, bytes]] = {}  # calls without an end so far
        self._adopted: list[list[Segment]] = []  # by dead owner
        self._looked = float("-inf")
        self._labels = Labels()

    def step(self) -> int:
        """Drain what is there now; how many lines were read. Raises OperationalError when the database is gone."""
        self._own.tend()
        self._own.pending = 0
        self._adopt()
        done = 0
        while read := self._batch(list(self._own.segments)):
            done += read
        self._own_segments()
        for segments in list(self._adopted):
            while read := self._batch(segments):
                done += read
            self._bury(segments)
            self._adopted.remove(segments)
        return done

    def _adopt(self) -> None:
        if time.monotonic() - self._looked >= ADOPT_EVERY:
            self._looked = time.monotonic()
            self._adopted += spool.adopt(self._own.directory)

    def _batch(self, segments: list[Segment]) -> int:
        """Read up to one batch of lines and store it; only then the segments count as read so far."""
        finished: list[bytes] = []
        begun: list[tuple[Segment, bytes]] = []
        damaged: list[bytes] = []
        ends: dict[Segment, int] = {}
        lines = 0
        for segment in segments:
            if segment.fd < 0 or segment.drained:
                continue
            found = segment.lines()
            ends[segment] = found.end
            lines += len(found.whole) + len(found.damaged)
            finished += [payload for kind, payload in found.whole if kind == FINISHED]
            begun += [(segment, payload) for kind, payload in found.whole if kind == STARTED]
            damaged += found.damaged + [
                kind + payload for kind, payload in found.whole if kind not in (FINISHED, STARTED)
            ]
            if lines >= BATCH:
                break
        self.store(finished, damaged)
        for segment, payload in begun:
            self._begin(segment, payload)
        for payload in finished:
            self._end(payload)
        for segment, end in ends.items():
            segment.read = end
        return lines

    def _begin(self, segment: Segment, payload: bytes) -> None:
        call_id = _call_id(payload)
        if call_id:
            self._started[call_id] = (segment, payload)
            segment.waiting.add(call_id)

    def _end(self, payload: bytes) -> None:
        call_id = _call_id(payload)
        if begun := self._started.pop(call_id, None):
            begun[0].waiting.discard(call_id)

    def _own_segments(self) -> None:
        """Delete our own files that the database has and that no running call began in."""
        for segment in list(self._own.segments):
            if segment.drained and not segment.waiting:
                self._own.forget(segment)

    def _bury(self, segments: list[Segment]) -> None:
        """A dead owner's segments are read: calls that never ended are charged as held, and the files go."""
        left = [call_id for segment in segments for call_id in segment.waiting]
        self.store([self._started[call_id][1] for call_id in left], [])
        for call_id in left:
            del self._started[call_id]
        if left:
            logger.warning("%d calls of a process that died were never finished: charged as held.", len(left))
        for segment in segments:
            segment.remove()

    def store(self, payloads: list[bytes], damaged: list[bytes]) -> None:
        """Events into the database: new calls once, with their roll-ups; what cannot be taken into quarantine."""
        oldest = time.time_ns() // 1_000_000 - self._retention_days * DAY_MS
        calls: dict[uuid.UUID, Call] = {}
        refused = [(line, "The line is damaged.") for line in damaged]
        for payload in payloads:
            try:
                row = records.row(json.loads(payload))
            except (records.Unfit, json.JSONDecodeError) as error:
                refused.append((payload, str(error)))
                continue
            if records.call_ms(row) < oldest:
                refused.append((payload, "The call is older than what is kept."))
            else:
                calls.setdefault(row[0], Call(payload, self._labels.bounded(row)))
        if calls:
            self._take(list(calls.values()), refused)
        if refused:
            quarantine(refused)

    def _take(self, calls: list[Call], refused: list[tuple[bytes, str]]) -> None:
        """Store a batch. If the database cannot take one of them, halve until that one stands alone."""
        try:
            record([call.row for call in calls])
        except (OperationalError, InterfaceError):
            raise
        except (DatabaseError, ValueError, OverflowError) as error:
            if len(calls) == 1:
                refused.append((calls[0].line, str(error)))
                return
            middle = len(calls) // 2
            self._take(calls[:middle], refused)
            self._take(calls[middle:], refused)


def _call_id(payload: bytes) -> str:
    """The id a payload begins with (flight.encode writes it first); "" when it does not."""
    return payload[12:48].decode("ascii", "replace") if payload.startswith(b'{"call_id":"') else ""


def record(rows: list[records.Row]) -> int:
    """Insert the calls that are new and add them to the roll-ups, in one transaction; how many were new."""
    with transaction.atomic():
        new = records.insert_new(rows)
        buckets = rollups.collect(new) if new else {}
        if new:
            rollups.upsert(buckets)
    rollups.count(buckets)
    return len(new)


def quarantine(lines: Iterable[tuple[bytes, str]]) -> None:
    """Keep lines that cannot be recorded, each once, whole."""
    now = datetime.now(UTC)
    rows = [
        QuarantinedEvent(
            id=uuid.uuid5(_NAMESPACE, line.hex()),
            at=now,
            reason=reason.replace("\0", "")[:300],
            line=line.decode("utf-8", "backslashreplace").replace("\0", "\\0"),
        )
        for line, reason in lines
    ]
    QuarantinedEvent.objects.bulk_create(rows, ignore_conflicts=True)
    logger.error("%d spool lines went to quarantine: %s", len(rows), rows[0].reason)


class Ledger(Pump):
    """The thread that drains."""

    def __init__(self) -> None:
        super().__init__("ledger", TICK)
        self._drain: Drain | None = None
        self._spool: Spool | None = None
        self._fsync = False
        self.recorded = 0  # lines drained since the start

    def open(self, directory: Path, retention_days: int, fsync: bool) -> None:
        self._spool = spool.open_in(directory)
        self._spool.wake = self.wake
        self._fsync = fsync
        self.tick = SYNC_TICK if fsync else TICK
        self._drain = Drain(self._spool, retention_days)
        self.start()

    def step(self) -> None:
        assert self._drain is not None and self._spool is not None
        if self._fsync:
            self._spool.sync()
        self.recorded += self._drain.step()

    def close(self) -> None:
        """Drain what is there, as long as pump.LAST allows; the rest waits on disk for the next start."""
        self.stop()
        spool.close()


ledger = Ledger()


async def open() -> None:
    """Open the spool and begin to drain."""
    env = settings.GATEHOUSE
    ledger.open(Path(env.data_dir) / "spool", env.retention_days, env.spool_fsync)


async def close() -> None:
    """Drain once more, then close the spool."""
    await asyncio.to_thread(ledger.close)
