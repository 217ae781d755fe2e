"""Monthly partitions of RequestRecord on PostgreSQL: made ahead, dropped when they are too old.

A month's partition holds the ids whose UUIDv7 time lies in that month (UTC). What has no partition lands in the
DEFAULT one, and moves when its month gets one.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connection, transaction

from lib.ids import first_uuid7

logger = logging.getLogger(__name__)

PARENT = "usage_requestrecord"
DEFAULT = f"{PARENT}_default"
AHEAD = 2  # months
LOCK_TIMEOUT = "3s"  # a partition waits for its turn, calls on their way into the ledger do not wait for it longer
_NAME = re.compile(rf"{PARENT}_(\d{{4}})_(\d{{2}})")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    year: int
    month: int

    @classmethod
    def of(cls, at: datetime) -> Month:
        at = at.astimezone(UTC)
        return cls(at.year, at.month)

    def plus(self, months: int) -> Month:
        years, month = divmod(self.year * 12 + self.month - 1 + months, 12)
        return Month(years, month + 1)

    @property
    def start(self) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def table(self) -> str:
        return f"{PARENT}_{self.year:04d}_{self.month:02d}"

    @property
    def bounds(self) -> tuple[str, str]:
        """The first id of this month, and the first one after it."""
        return bound(self.start), bound(self.plus(1).start)


def bound(at: datetime) -> str:
    """The smallest id of a call that started at that time."""
    return str(first_uuid7(int(at.timestamp()) * 1000))


def partitioned() -> bool:
    return connection.vendor == "postgresql"


def existing() -> list[Month]:
    """The months that have a partition, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [PARENT])
        names = [name for (name,) in cursor.fetchall()]
    return sorted(Month(int(found[1]), int(found[2])) for name in names if (found := _NAME.fullmatch(name)))


def make_ahead(now: datetime, ahead: int = AHEAD) -> list[str]:
    """Make the partitions of this month and the next ones; which were new."""
    if not partitioned():
        return []
    there = set(existing())
    wanted = [Month.of(now).plus(months) for months in range(ahead + 1)]
    return [_make(month) for month in wanted if month not in there]


def _make(month: Month) -> str:
    """One partition. Rows of that month that wait in the DEFAULT partition move over in the same transaction."""
    first, end = month.bounds
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"CREATE TABLE {month.table} (LIKE {PARENT} INCLUDING DEFAULTS)")
        cursor.execute(f"LOCK TABLE {DEFAULT} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {DEFAULT} WHERE id >= %s AND id < %s RETURNING *)"
            f" INSERT INTO {month.table} SELECT * FROM moved",
            [first, end],
        )
        cursor.execute(f"ALTER TABLE {PARENT} ATTACH PARTITION {month.table} FOR VALUES FROM ('{first}') TO ('{end}')")
    logger.info("Partition %s is there.", month.table)
    return month.table


def expired(cutoff: datetime) -> list[Month]:
    """Partitions that hold nothing younger than `cutoff`."""
    return [month for month in existing() if month.plus(1).start <= cutoff]


def drop(month: Month) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"DROP TABLE {month.table}")
    logger.info("Partition %s was dropped: its calls are older than what is kept.", month.table)
