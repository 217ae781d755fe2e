"""A page of the request log: by keyset, without counting, and in bounded time.

Where filters fit few calls, a database would read all of the range to fill a page. So it is asked for one window of time
after the other, each twice as wide as one that was quick, and when the time is over the page ends with what was found
and tells how far it looked.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db.models import QuerySet

from lib.ids import first_uuid7, uuid7_ms
from usage.models import RequestRecord

PAGE: Final = 50
FIRST: Final = timedelta(minutes=15)
BUDGET: Final = 0.2  # seconds a page may look
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
    begin = time.monotonic()
    while at != until and len(rows) <= PAGE:
        asked = time.monotonic()
        edge = max(at - width, until) if back else min(at + width, until)
        window = records.filter(pk__gte=bound(min(at, edge)), pk__lt=bound(max(at, edge)))
        rows += window.order_by(order)[: PAGE + 1 - len(rows)]
        at = edge
        took = time.monotonic() - asked
        width = width * 2 if took < budget / 10 else width / 2 if took > budget / 2 else width
        if time.monotonic() - begin > budget and at != until and len(rows) <= PAGE:
            return rows, at
    return rows, None


def bound(at: datetime) -> uuid.UUID:
    """The smallest id of a call of that moment."""
    return first_uuid7(int(at.timestamp() * 1000))


def moment(call_id: uuid.UUID) -> datetime:
    """The time inside an id, to the millisecond."""
    return datetime.fromtimestamp(uuid7_ms(call_id) / 1000, UTC)
