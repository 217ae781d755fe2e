"""Doing the sums again: records at today's price tables, roll-ups from records."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from routing.backends import BACKENDS
from routing.models import Deployment
from usage import closed_days, prices, records, rollups
from usage.event import Tokens
from usage.models import RequestRecord, UsageBucket
from usage.partitions import bound

CHUNK = 1_000
SLACK = timedelta(hours=1)  # a call's id may be a little older or younger than its start


class BadPeriod(ValueError):
    """The period cannot be worked on; the message says why."""


@dataclass(slots=True)
class Recosted:
    """What changed, or would. before, after: nano-dollars of the records that changed."""

    seen: int = 0
    changed: int = 0
    unpriced: int = 0
    before: int = 0
    after: int = 0
    organizations: dict[str, int] = field(default_factory=dict)  # id: nano-dollars more (or less)


def within(start: datetime, end: datetime) -> QuerySet[RequestRecord]:
    """The records that started in [start, end). The ids let PostgreSQL skip whole partitions."""
    return RequestRecord.objects.filter(
        id__gte=bound(start - SLACK), id__lt=bound(end + SLACK), started_at__gte=start, started_at__lt=end
    )


def recost(start: datetime, end: datetime, *, dry_run: bool = False) -> Recosted:
    """Price the records of [start, end) again, each at its own time; roll-ups follow in the same transaction.

    A record whose price version would stay the same keeps its cost, so that an estimate bounded by what was held keeps
    its bound. A record whose price is still unknown stays unpriced; a known cost is never taken away.
    """
    prices.load()
    models = {str(row.id): row.base_model or row.upstream_model for row in Deployment.objects.all()}
    done = Recosted()
    for chunk in _chunks(within(start, end).exclude(deployment_id="")):
        with transaction.atomic():
            _recost_chunk(chunk, models, done, dry_run)
    return done


def _chunks(rows: QuerySet[RequestRecord]) -> Iterator[list[RequestRecord]]:
    last = uuid.UUID(int=0)
    while chunk := list(rows.filter(id__gt=last).order_by("id")[:CHUNK]):
        yield chunk
        last = chunk[-1].id


def _recost_chunk(chunk: list[RequestRecord], models: dict[str, str], done: Recosted, dry_run: bool) -> None:
    changed: list[RequestRecord] = []
    changes: dict[rollups.BucketKey, tuple[int, int]] = {}
    for record in chunk:
        done.seen += 1
        card = _card(record, models)
        if card is None:
            done.unpriced += record.cost_nano is None
            continue
        if card.version == record.price_version and record.cost_nano is not None:
            continue
        cost, before = card.cost(tokens_of(record)), record.cost_nano
        done.changed += 1
        done.before += before or 0
        done.after += cost
        more = cost - (before or 0)
        done.organizations[record.organization_id] = done.organizations.get(record.organization_id, 0) + more
        for key in rollups.keys_of(_row(record)):
            old = changes.get(key, (0, 0))
            changes[key] = (old[0] + more, old[1] - (before is None))
        record.cost_nano, record.price_version = cost, card.version
        record.flags = [flag for flag in record.flags if flag != "unpriced"]
        changed.append(record)
    if changed and not dry_run:
        RequestRecord.objects.bulk_update(changed, ["cost_nano", "price_version", "flags"])
        rollups.adjust(changes)


def _card(record: RequestRecord, models: dict[str, str]) -> prices.RateCard | None:
    backend = BACKENDS.get(record.backend)
    model = models.get(record.deployment_id, record.upstream_model)
    provider = backend.price_provider if backend else ""
    return prices.resolve(record.deployment_id, provider, model, record.started_at.timestamp())


def tokens_of(record: RequestRecord) -> Tokens:
    return Tokens(**{name: getattr(record, column) for column, name in records.TOKENS.items()})


def _row(record: RequestRecord) -> records.Row:
    return tuple([getattr(record, name) for name in records.COLUMNS])


def rebuild(start: datetime, end: datetime, now: datetime | None = None) -> int:
    """Make the roll-ups of [start, end) anew from the records; how many records were read.

    start and end are widened to whole UTC days. Raises BadPeriod when records of that time may be gone already: the
    roll-ups would lose what they alone remember.
    """
    now = now or datetime.now(UTC)
    day = _midnight(start)
    if day < now - timedelta(days=settings.GATEHOUSE.retention_days):
        raise BadPeriod(
            f"Records are kept for {settings.GATEHOUSE.retention_days} days; roll-ups from before that cannot be made anew."
        )
    read = 0
    while day < end:
        read += _rebuild_day(day, now)
        day += timedelta(days=1)
    return read


def _midnight(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _rebuild_day(day: datetime, now: datetime) -> int:
    """One UTC day in one transaction. Nobody else can add to a bucket meanwhile; what the ledger has inserted but not
    added yet is not visible here, and is added after us."""
    end = day + timedelta(days=1)
    minutes_from = int((now - timedelta(days=settings.GATEHOUSE.minute_retention_days)).timestamp())
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE usage_usagebucket IN SHARE ROW EXCLUSIVE MODE")
        UsageBucket.objects.filter(Q(start__gte=day, start__lt=end)).delete()
        closed_days.changed()
        rows = within(day, end).values_list(*records.COLUMNS).iterator(chunk_size=CHUNK)
        read: list[Any] = [0]
        buckets = rollups.collect(_counted(rows, read))
        rollups.upsert(
            {key: bucket for key, bucket in buckets.items() if key[0] != rollups.MINUTE or key[1] >= minutes_from}
        )
    return int(read[0])


def _counted(rows: Iterator[records.Row], read: list[Any]) -> Iterator[records.Row]:
    for row in rows:
        read[0] += 1
        yield row
