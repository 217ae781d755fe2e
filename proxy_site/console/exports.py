"""CSV and JSON that leave piece by piece: whatever their length, only one batch is in memory.

Times are ISO 8601 in UTC, money is decimal USD without separators. A text that a spreadsheet would take for a
formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from django.utils import timezone

BATCH = 1000  # rows
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")  # how a cell begins that a spreadsheet may execute

Row = Sequence[Any]


def csv_response(name: str, head: Row, rows: Iterable[Row]) -> StreamingHttpResponse:
    """A download. `rows` is read in the request's own thread, a batch at a time, while the last one is being sent."""
    response = StreamingHttpResponse(pieces(head, iter(rows)), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}-{timezone.now():%Y%m%d-%H%M}.csv"'
    response["Cache-Control"] = "no-store"
    return response


async def pieces(head: Row, rows: Iterator[Row]) -> AsyncIterator[bytes]:
    yield written([head])
    while batch := await sync_to_async(taken)(rows):
        yield written(batch)


def taken(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, BATCH))


def written(rows: Iterable[Row]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def cell(value: Any) -> str | int:
    """One value as it stands in the file."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return value
        case float():
            return f"{value:.6f}".rstrip("0").rstrip(".")
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case list() | tuple():
            return cell(", ".join(map(str, value)))
        case _:
            text = str(value)
            return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(FORMULA) else text
