"""A page of the request log: by keyset, without counting, and in bounded time.

Where filters fit few calls, a database would read all of the range to fill a page. So it is asked for one window of time
after the other, each twice as wide as one that was quick, and when the time is over (in the middle of a window, too)
the page ends with what was found and tells how far it looked.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

from lib.ids import first_uuid7, uuid7_ms
from usage.models import RequestRecord

PAGE: Final = 50
FIRST: Final = timedelta(minutes=15)
BUDGET: Final = 0.2  # seconds a page may look
QUERY_CANCELED: Final = "57014"
AHEAD: Final = timedelta(minutes=5)  # clocks differ: the newest id may lie in the future


@dataclass(frozen=True, slots=True)
class Page:
    """rows: the newest first. older, newer: the ids to go on before and after, "" where there is nothing more.

    looked: how far, when the time was over before the page was full; None when the page is full or the range was read.
    """

    rows: list[RequestRecord]
    older: str = ""
    newer: str = ""
    looked: datetime | None = None


def page(
    records: QuerySet[RequestRecord],
    start: datetime,
    end: datetime | None = None,
    *,
    before: uuid.UUID | None = None,
    after: uuid.UUID | None = None,
    budget: float = BUDGET,
) -> Page:
    """The newest rows of [start, end), before an id if one is given; or the oldest ones after an id."""
    end = end or datetime.now(UTC) + AHEAD
    if after:
        rows, looked = _look(records.filter(pk__gt=after), moment(after), end, budget)
        newer = str(rows[PAGE - 1].pk) if len(rows) > PAGE else str(bound(looked)) if looked else ""
        rows = rows[:PAGE][::-1]
        return Page(rows, str(rows[-1].pk if rows else after), newer, looked)
    if before:
        records, end = records.filter(pk__lt=before), moment(before) + timedelta(milliseconds=1)
    rows, looked = _look(records, end, start, budget)
    older = str(rows[PAGE - 1].pk) if len(rows) > PAGE else str(bound(looked)) if looked else ""
    rows = rows[:PAGE]
    return Page(rows, older, str(rows[0].pk) if before and rows else "", looked)


def _look(
    records: QuerySet[RequestRecord], at: datetime, until: datetime, budget: float
) -> tuple[list[RequestRecord], datetime | None]:
    """Up to PAGE + 1 rows from `at` to `until`, which may lie before it; and where the time was over, if it was."""
    back = until < at
    order, width, rows = "-pk" if back else "pk", FIRST, list[RequestRecord]()
    begin = asked = time.monotonic()
    while at != until and len(rows) <= PAGE:
        edge = max(at - width, until) if back else min(at + width, until)
        window = records.filter(pk__gte=bound(min(at, edge)), pk__lt=bound(max(at, edge))).order_by(order)
        left = begin + budget - asked
        # The first window is looked through however long that takes: every page gets on.
        found = _in_time(window[: PAGE + 1 - len(rows)], left if asked > begin else None)
        if found is None:
            return rows, at
        rows += found
        at = edge
        now = time.monotonic()
        took, asked = now - asked, now
        width = width * 2 if took < budget / 10 else width / 2 if took > budget / 2 else width
        if now - begin > budget and at != until and len(rows) <= PAGE:
            return rows, at
    return rows, None


def _in_time(rows: QuerySet[RequestRecord], seconds: float | None) -> list[RequestRecord] | None:
    """The rows; None when the database needs longer than that. SQLite cannot be told, and takes its time."""
    if seconds is None or connection.vendor != "postgresql":
        return list(rows)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(round(seconds * 1000), 1)}ms"])
            found = list(rows)
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")  # somebody's transaction may go on
            return found
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) != QUERY_CANCELED:
            raise
        return None


def bound(at: datetime) -> uuid.UUID:
    """The smallest id of a call of that moment."""
    return first_uuid7(int(at.timestamp() * 1000))


def moment(call_id: uuid.UUID) -> datetime:
    """The time inside an id, to the millisecond."""
    return datetime.fromtimestamp(uuid7_ms(call_id) / 1000, UTC)
