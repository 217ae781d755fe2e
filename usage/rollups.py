"""Roll-ups: records added up into UsageBucket rows of a minute, a quarter of an hour and a day, in UTC.

Minutes are for looking at the last hours and go after a few days. Quarters are exact in every time zone. Days make
long ranges cheap: a range is read as its whole days and the quarters at its edges (summaries.py).

Records are first added up in Python, so that the database sees each bucket once a batch, in sorted order (two
processes that upsert the same buckets then wait for each other instead of dead-locking).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from typing import Any

from django.db import connection

from lib import metrics
from usage import closed_days, histogram
from usage.records import AT, Row

MINUTE, QUARTER, DAY = 60, 900, 86_400
WIDTHS = (MINUTE, QUARTER, DAY)  # seconds

KEY = ("organization_id", "team_id", "key_id", "model", "deployment_id", "action", "status", "label")
NAMES = ("organization", "team", "key", "owner", "deployment", "backend")  # of the id beside them; the newest holds
TOKENS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "tool_use_tokens", "output_tokens", "thoughts_tokens")
SUMS = ("requests", "streams", "unpriced", "estimated", *TOKENS, "cost_nano", "total_ms", "ttft_ms", "ttft_count")
COUNTS = (*histogram.columns("ttft"), *histogram.columns("total"))
COLUMNS = ("width", "start", *KEY, *NAMES, *SUMS, *COUNTS)
_ONCE = ", ".join(f'"{name}"' for name in ("width", "start", *KEY))
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)

_key = itemgetter(*(AT[name] for name in KEY))
_names = itemgetter(*(AT[name] for name in NAMES))
_tokens = itemgetter(*(AT[name] for name in TOKENS))
_parts = itemgetter(*(AT[name] for name in ("started_at", "stream", "flags", "cost_nano", "total_ms", "ttft_ms")))

BucketKey = tuple[Any, ...]  # (width, start in Unix seconds, *KEY)


class Bucket:
    """Sums of one bucket, to be added to what the database has."""

    __slots__ = ("names", "sums", "total", "ttft")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.sums = [0] * len(SUMS)
        self.ttft = histogram.empty()
        self.total = histogram.empty()

    def add(self, other: Bucket) -> None:
        self.names = other.names
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]
        self.ttft = histogram.merge((self.ttft, other.ttft))
        self.total = histogram.merge((self.total, other.total))


def count(buckets: Mapping[BucketKey, Bucket]) -> None:
    """Add what was recorded to this process's metrics, by the minute buckets alone.

    A model is named only where a deployment was reached: before that the name is whatever a client wrote, and every new
    one would be a time series for good.
    """
    for (width, _start, *key), bucket in buckets.items():
        if width != MINUTE:
            continue
        named = dict(zip(KEY, key, strict=True))
        backend = dict(zip(NAMES, bucket.names, strict=True))["backend"]
        model = named["model"] if backend else ""
        sums = dict(zip(SUMS, bucket.sums, strict=True))
        metrics.CALLS.labels(named["action"], model, backend, named["status"]).inc(sums["requests"])
        metrics.DURATION.labels(named["action"], model, backend).inc(sums["total_ms"])
        metrics.SPEND.labels(model, backend).inc(sums["cost_nano"])
        metrics.FIRST_TOKEN.labels(model, backend).inc(sums["ttft_ms"])
        metrics.STREAMS.labels(model, backend).inc(sums["ttft_count"])
        for kind in TOKENS:
            metrics.TOKENS.labels(model, backend, kind.removesuffix("_tokens")).inc(sums[kind])


def collect(rows: Iterable[Row]) -> dict[BucketKey, Bucket]:
    """Rows of records (records.COLUMNS) as buckets of every width."""
    minutes: dict[BucketKey, Bucket] = {}
    for row in rows:
        started, stream, flags, cost, total_ms, ttft_ms = _parts(row)
        second = int(started.timestamp())
        key = (MINUTE, second - second % MINUTE, *_key(row))
        bucket = minutes.get(key)
        if bucket is None:
            bucket = minutes[key] = Bucket(_names(row))
        prompt, cached, written, tool, output, thoughts = _tokens(row)
        sums = bucket.sums
        sums[0] += 1
        sums[1] += stream
        sums[2] += cost is None
        sums[3] += "estimated" in flags  # JSON text or a list, both will do
        sums[4] += prompt
        sums[5] += cached
        sums[6] += written
        sums[7] += tool
        sums[8] += output
        sums[9] += thoughts
        sums[10] += cost or 0
        sums[11] += total_ms
        bucket.total[histogram.slot(total_ms)] += 1
        if ttft_ms is not None:
            sums[12] += ttft_ms
            sums[13] += 1
            bucket.ttft[histogram.slot(ttft_ms)] += 1
    found = dict(minutes)
    for width in WIDTHS[1:]:
        for (_, start, *rest), bucket in minutes.items():
            key = (width, start - start % width, *rest)
            wide = found.get(key)
            if wide is None:
                wide = found[key] = Bucket(bucket.names)
            wide.add(bucket)
    return found


def upsert(buckets: dict[BucketKey, Bucket]) -> None:
    """Add the buckets to the table, inside the caller's transaction."""
    closed_days.touched(key[1] for key in buckets if key[0] == DAY)
    values = [_values(key, bucket) for key, bucket in buckets.items()]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS usage_bucket_batch ON COMMIT DELETE ROWS"
                f" AS SELECT {_NAMES} FROM usage_usagebucket WITH NO DATA; DELETE FROM usage_bucket_batch"
            )
            with connection.wrap_database_errors, cursor.copy(f"COPY usage_bucket_batch ({_NAMES}) FROM STDIN") as copy:
                for each in values:
                    copy.write_row(each)
            cursor.execute(_statement(f"SELECT {_NAMES} FROM usage_bucket_batch ORDER BY {_ONCE}"))
        else:
            cursor.executemany(_statement(f"VALUES ({', '.join(['%s'] * len(COLUMNS))})"), values)


def _values(key: BucketKey, bucket: Bucket) -> tuple[Any, ...]:
    counts = [count or None for count in (*bucket.ttft, *bucket.total)]
    return (key[0], _start(key), *key[2:], *bucket.names, *bucket.sums, *counts)


def _start(key: BucketKey) -> Any:
    start = datetime.fromtimestamp(key[1], UTC)
    return start if connection.vendor == "postgresql" else start.replace(tzinfo=None).isoformat(" ")


@cache
def _statement(source: str) -> str:
    news = [f'"{name}" = EXCLUDED."{name}"' for name in NAMES]
    sums = [f'"{name}" = usage_usagebucket."{name}" + EXCLUDED."{name}"' for name in SUMS]
    counts = [f'"{name}" = {_added(name)}' for name in COUNTS]
    return (
        f"INSERT INTO usage_usagebucket ({_NAMES}) {source}"
        f" ON CONFLICT ({_ONCE}) DO UPDATE SET {', '.join([*news, *sums, *counts])}"
    )


def _added(count: str) -> str:
    """Two counts of which NULL is none."""
    mine, more = f'usage_usagebucket."{count}"', f'EXCLUDED."{count}"'
    return f"COALESCE({mine} + {more}, {mine}, {more})"


def adjust(changes: dict[BucketKey, tuple[int, int]]) -> None:
    """Correct buckets that are there by (nano-dollars, unpriced calls), inside the caller's transaction."""
    where = " AND ".join(f'"{name}" = %s' for name in ("width", "start", *KEY))
    statement = f"UPDATE usage_usagebucket SET cost_nano = cost_nano + %s, unpriced = unpriced + %s WHERE {where}"
    closed_days.touched(key[1] for key in changes if key[0] == DAY)
    values = [(*change, key[0], _start(key), *key[2:]) for key, change in sorted(changes.items())]
    with connection.cursor() as cursor:
        cursor.executemany(statement, values)


def keys_of(row: Row) -> list[BucketKey]:
    """The bucket of each width that a record is counted in."""
    second = int(row[AT["started_at"]].timestamp())
    return [(width, second - second % width, *_key(row)) for width in WIDTHS]
