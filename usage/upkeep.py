"""Retention: what is older than the settings allow goes, once a day. Partitions of the ledger are made ahead.

Roll-ups of 15 minutes and audit events outlive the records; see the settings GATEHOUSE_*_RETENTION_DAYS. Sessions that
have expired go as well: every sign-in that a stranger begins leaves one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models import QuerySet

from keys import audit
from keys.models import AuditEvent
from lib.background import Background
from usage import partitions
from usage.models import RequestRecord, StoredBody, UsageBucket

logger = logging.getLogger(__name__)

EVERY = 24 * 3600.0  # seconds
AGAIN = 600.0  # seconds until the next try after a failure
CHUNK = 5_000  # rows deleted at once, so that nobody waits long for a lock
LOCK_ID = 0x6761_7465  # "gate": the advisory lock of whoever prunes


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would go. partitions: names of dropped tables; `records` counts rows deleted one by one."""

    partitions: tuple[str, ...] = ()
    records: int = 0
    minutes: int = 0
    bodies: int = 0
    audit: int = 0
    sessions: int = 0


def prune(now: datetime | None = None, *, dry_run: bool = False) -> Pruned:
    """Delete what is older than the settings say. Records go by whole partitions where there are any: they are kept
    for at least `retention_days`, and up to a month longer."""
    now = now or datetime.now(UTC)
    env = settings.GATEHOUSE

    def before(days: int) -> datetime:
        return now - timedelta(days=days)

    oldest = before(env.retention_days)
    old = partitions.expired(oldest) if partitions.partitioned() else []
    if not dry_run:
        for month in old:
            partitions.drop(month)
    return Pruned(
        partitions=tuple(month.table for month in old),
        records=_delete_records(oldest, dry_run),
        minutes=_delete(UsageBucket.objects.filter(width=60, start__lt=before(env.minute_retention_days)), dry_run),
        bodies=_delete(StoredBody.objects.filter(at__lt=before(env.body_retention_days)), dry_run),
        audit=_delete_audit(before(env.audit_retention_days), dry_run),
        sessions=_delete(Session.objects.filter(expire_date__lt=now), dry_run),
    )


def _delete_records(oldest: datetime, dry_run: bool) -> int:
    """Rows without a partition of their own: on SQLite all, on PostgreSQL those in the DEFAULT partition."""
    first = partitions.bound(oldest)
    if not partitions.partitioned():
        return _delete(RequestRecord.objects.filter(id__lt=first), dry_run)
    with connection.cursor() as cursor:
        if dry_run:
            cursor.execute(f"SELECT count(*) FROM {partitions.DEFAULT} WHERE id < %s", [first])
            return int(cursor.fetchone()[0])
        cursor.execute(f"DELETE FROM {partitions.DEFAULT} WHERE id < %s", [first])
        return int(cursor.rowcount)


def _delete_audit(oldest: datetime, dry_run: bool) -> int:
    return AuditEvent.objects.filter(at__lt=oldest).count() if dry_run else audit.prune(oldest)


def _delete(rows: QuerySet[Any], dry_run: bool) -> int:
    if dry_run:
        return rows.count()
    gone = 0
    while ids := list(rows.order_by("pk").values_list("pk", flat=True)[:CHUNK]):
        rows.model._base_manager.filter(pk__in=ids)._raw_delete(rows.db)
        gone += len(ids)
    return gone


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """Whether nobody else does this now. On SQLite there is one server process, which is always alone."""
    if connection.vendor != "postgresql":
        yield True
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_ID])
        mine = bool(cursor.fetchone()[0])
        try:
            yield mine
        finally:
            if mine:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK_ID])


def run() -> Pruned | None:
    """Partitions ahead, then prune; None when another process is at it. In a thread, with a connection of its own."""
    try:
        with alone() as mine:
            if not mine:
                return None
            partitions.make_ahead(datetime.now(UTC))
            return prune()
    finally:
        connection.close()


async def _round() -> None:
    pruned = await asyncio.to_thread(run)
    if pruned is not None and pruned != Pruned():
        logger.info("Retention: %s", pruned)


_rounds = Background("usage.upkeep", _round, every=EVERY, again=AGAIN)
open = _rounds.open
close = _rounds.close
