"""Days that are over, remembered: a dashboard's question about them goes to the database once a process.

The roll-ups of a UTC day that is over change only when a call is recorded late, priced again or rolled up again.
Whoever does that raises a version in the same transaction (`touched`, `changed`); what was remembered under another
version is not used. Days count as over a while after their end, for readers a while longer than for writers, so that
no clock has to be exact.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, Final

from django.db import connection

from keys.models import ChangeVersion

DAY: Final = 86_400
TOPIC: Final = "closed days"
WRITERS, READERS = 1_800, 5_400  # seconds after its end that a day is over
MOST: Final = 25_000_000  # bytes, about, of one answer that is remembered
TOTAL: Final = 75_000_000  # of all of them

Rows = Sequence[Mapping[str, Any] | tuple[Any, ...]]

_known: OrderedDict[Hashable, Rows] = OrderedDict()  # the one used longest ago first
_size = 0
_lock = Lock()


def end() -> int:
    """The Unix second before which everything is over, for readers: a UTC midnight."""
    return _midnight(READERS)


def _midnight(after: int) -> int:
    now = int(time.time()) - after
    return now - now % DAY


def touched(starts: Iterable[int]) -> None:
    """Buckets that start at these Unix seconds are written in this transaction."""
    if min(starts, default=_midnight(0)) < _midnight(WRITERS):
        changed()


def changed() -> None:
    """What days hold that are over changes in this transaction."""
    ChangeVersion.objects.bulk_create(
        [ChangeVersion(topic=TOPIC, version=time.time_ns())],
        update_conflicts=True,
        unique_fields=["topic"],
        update_fields=["version"],
    )


def remembered(question: Hashable, ask: Callable[[], Rows]) -> Rows:
    """The answer to a question about days that are over: of before, or asked now. Not to be changed by the caller."""
    key = (_version(), question)
    with _lock:
        if key in _known:
            _known.move_to_end(key)
            return _known[key]
    rows = ask()
    if _bytes(rows) <= MOST:
        _keep(key, rows)
    return rows


def _version() -> int:
    """Asked for each of a page's questions, so in the database's own words: the least work there is."""
    with connection.cursor() as cursor:
        cursor.execute(_VERSION, [TOPIC])
        row = cursor.fetchone()
    return row[0] if row else 0


_VERSION: Final = f"SELECT version FROM {ChangeVersion._meta.db_table} WHERE topic = %s"


def _keep(key: Hashable, rows: Rows) -> None:
    global _size
    with _lock:
        if key not in _known:
            _known[key] = rows
            _size += _bytes(rows)
        while _size > TOTAL:
            _size -= _bytes(_known.popitem(last=False)[1])


def _bytes(rows: Rows) -> int:
    """About: counts are small numbers, which are shared; ids and times are not."""
    if not rows:
        return 100
    size = len(rows[0])
    return len(rows) * (200 + 24 * size if isinstance(rows[0], tuple) else 100 * size)


def forget() -> None:
    """As a process begins."""
    global _size
    with _lock:
        _known.clear()
        _size = 0
