"""Stored bodies in the database: brought in from their spool, read by whoever may, gone with their key or their time.

A row is sealed for one call of one organization (routing/credentials.py). GATEHOUSE_BODY_RETENTION_DAYS is how long it
can be read; what is older is deleted with the daily upkeep. 0: nothing is kept at all, whatever a key says.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.db.models import QuerySet
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils import timezone

from keys.models import Organization, VirtualKey
from lib import json
from routing import credentials
from usage import bodies, spool
from usage.models import StoredBody
from usage.pump import Pump
from usage.spool import Segment, Spool

logger = logging.getLogger(__name__)

TICK = 0.5  # seconds between two looks at the spool
READ_BYTES = 4 * 1024 * 1024  # that are brought in at once
ADOPT_EVERY = 30.0  # seconds
LAST = 2.0  # seconds that the end of a process waits for a database that is gone


@dataclass(frozen=True, slots=True)
class Body:
    """What was asked and answered, in the clear. *_whole: False where only the beginning was kept."""

    request: str
    answer: str
    request_whole: bool
    answer_whole: bool


def kept(rows: QuerySet[StoredBody], now: datetime | None = None) -> QuerySet[StoredBody]:
    """Those of the rows whose time is not over."""
    days = timedelta(days=settings.GATEHOUSE.body_retention_days)
    return rows.filter(at__gte=(now or timezone.now()) - days)


def opened(row: StoredBody) -> Body:
    """Raises CredentialError."""
    text = credentials.open_text(bodies.PURPOSE, str(row.call_id), row.sealed, organization=row.organization_id)
    return Body(**json.loads(text))


# Bringing in


class Bringing(Pump):
    """The thread that brings bodies into the database, apart from the ledger's: money never waits for them."""

    def __init__(self, own: Spool) -> None:
        super().__init__("store of bodies", TICK, LAST)
        self.own = own
        self._rounds = 0

    def step(self) -> None:
        self.own.tend()
        for segment in list(self.own.segments):
            bring(segment)
            if segment.drained:
                self.own.forget(segment)
        if self._rounds % round(ADOPT_EVERY / TICK) == 0:
            for segments in spool.adopt(self.own.directory):
                self._inherit(segments)
        self._rounds += 1

    def _inherit(self, segments: list[Segment]) -> None:
        """What a process left behind that is gone. If it cannot be brought in now, it is let go for another round."""
        try:
            for segment in segments:
                bring(segment)
                segment.remove()
        finally:
            for segment in segments:
                segment.close()


def bring(segment: Segment) -> None:
    """All there is in a segment. Raises OperationalError; then what was brought in before stays."""
    while True:
        found = segment.lines(READ_BYTES)
        if found.damaged:
            logger.error("%d lines of the spool of bodies are damaged and are left out.", len(found.damaged))
        store(row for payload in (payload for _, payload in found.whole) if (row := row_of(payload)))
        if found.end == segment.read:
            return
        segment.read = found.end


def row_of(payload: bytes) -> StoredBody | None:
    try:
        line = json.loads(payload)
        return StoredBody(
            call_id=uuid.UUID(line["call_id"]),
            organization_id=line["organization_id"],
            key_id=str(uuid.UUID(line["key_id"])),
            at=datetime.fromtimestamp(line["at_ms"] / 1000, UTC),
            sealed=line["sealed"],
        )
    except (ValueError, KeyError, TypeError) as error:
        logger.error("A line of the spool of bodies cannot be read (%s) and is left out.", error)
        return None


def store(found: Iterable[StoredBody]) -> None:
    """Each call's once; none of a key that was deleted meanwhile, or will be while this runs: the lock decides."""
    rows = list(found)
    if not rows:
        return
    try:
        with transaction.atomic():
            wanted = {row.key_id for row in rows}
            there = VirtualKey.objects.select_for_update(no_key=True).filter(pk__in=wanted).order_by("pk")
            alive = {str(pk) for pk in there.values_list("pk", flat=True)}
            StoredBody.objects.bulk_create([row for row in rows if row.key_id in alive], ignore_conflicts=True)
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, ValueError) as error:
        if len(rows) == 1:
            logger.error("A request and its answer cannot be stored (%s) and are left out.", error)
            return
        for row in rows:
            store([row])


# What goes with its key


@receiver(post_delete, sender=VirtualKey)
def key_deleted(instance: VirtualKey, **_: Any) -> None:
    StoredBody.objects.filter(key_id=str(instance.pk)).delete()


@receiver(post_delete, sender=Organization)
def organization_deleted(instance: Organization, **_: Any) -> None:
    StoredBody.objects.filter(organization_id=str(instance.pk)).delete()


# The part of a process


_bringing: Bringing | None = None


async def open() -> None:
    """Begin to keep bodies, where they may be kept."""
    global _bringing
    env = settings.GATEHOUSE
    if env.body_retention_days:
        writer = bodies.open_in(Path(env.data_dir) / "bodies", env.body_max)
        _bringing = Bringing(writer.spool)
        _bringing.start()


def _close() -> None:
    global _bringing
    bodies.close()
    if _bringing is not None:
        _bringing.stop()
        _bringing.own.close()
        _bringing = None


async def close() -> None:
    """Seal and bring in what is there; the rest waits on disk for the next start."""
    await asyncio.to_thread(_close)
