"""Events as rows of RequestRecord, and the insert that takes each call once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from operator import itemgetter, le
from typing import Any

from django.db import connection

from lib import json
from lib.ids import uuid7_ms

Row = tuple[Any, ...]
Json = dict[str, Any]

_BIGINT, _INT, _SMALLINT = 2**63 - 1, 2**31 - 1, 2**15 - 1

# Column: the most characters it takes. A longer text is cut.
TEXTS = {
    "organization_id": 40, "organization": 100, "team_id": 40, "team": 100, "key_id": 40, "key": 100, "owner": 254,
    "action": 30, "requested_model": 200, "model": 200, "deployment_id": 40, "deployment": 320, "connection": 100,
    "backend": 40, "upstream_model": 200, "status": 24, "error": 4_000, "finish_reason": 40, "price_version": 80,
    "client": 200, "address": 45, "label": 100,
}  # fmt: skip
# Column: its highest number.
COUNTS = {"http_status": _SMALLINT, "total_ms": _INT}
MAYBE = {"cost_nano": _BIGINT, "ttft_ms": _INT}
# Column: its name in usage.event.Tokens.
TOKENS = {
    "prompt_tokens": "prompt", "cached_tokens": "cached", "cache_write_tokens": "cache_write",
    "tool_use_tokens": "tool_use", "output_tokens": "candidates", "thoughts_tokens": "thoughts",
    "audio_prompt_tokens": "audio_prompt", "image_prompt_tokens": "image_prompt", "audio_output_tokens": "audio_output",
    "image_output_tokens": "image_output",
}  # fmt: skip
LISTS = ("attempts", "dropped", "tags", "flags", "limit_ids")
COLUMNS = ("id", "started_at", "stream", *MAYBE, *COUNTS, *TOKENS, *TEXTS, *LISTS)
AT = {name: index for index, name in enumerate(COLUMNS)}

_ABSENT: Json = {"stream": False, **dict.fromkeys(MAYBE), **dict.fromkeys(COUNTS, 0), **dict.fromkeys(TEXTS, "")}
_ABSENT |= dict.fromkeys(LISTS, ())
_NO_TOKENS = dict.fromkeys(TOKENS.values(), 0)
_texts, _text_limits = itemgetter(*TEXTS), tuple(TEXTS.values())
_counts, _maybe = itemgetter(*COUNTS), itemgetter(*MAYBE)
_lists = itemgetter(*LISTS)
_tokens = itemgetter(*TOKENS.values())
_HIGHEST = (*COUNTS.values(), *[_BIGINT] * len(TOKENS), *MAYBE.values())
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)


class Unfit(ValueError):
    """An event that no row can be made of."""


def row(event: Json) -> Row:
    """The values of COLUMNS, in their order. Raises Unfit.

    Too long a text is cut and loses its NULs (PostgreSQL takes none); a number out of range is an error.
    """
    try:
        given = _ABSENT | event
        numbers = (*_counts(given), *_tokens(_NO_TOKENS | given["tokens"]))
        maybe = _maybe(given)
        _check((*numbers, *[value or 0 for value in maybe]))
        return (
            uuid.UUID(given["call_id"]),
            datetime.fromtimestamp(given["started_ms"] / 1000, UTC),
            bool(given["stream"]),
            *maybe,
            *numbers,
            *_fitting(_texts(given)),
            *[_listed(value) if value else "[]" for value in _lists(given)],
        )
    except (KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, Unfit) else Unfit(str(error)) from error


def _check(numbers: Sequence[Any]) -> None:
    if {*map(type, numbers)} != {int} or min(numbers) < 0 or not all(map(le, numbers, _HIGHEST)):
        raise Unfit(f"Not whole numbers in range: {numbers}")


def _fitting(texts: tuple[str, ...]) -> Sequence[str]:
    if "\0" not in "".join(texts) and all(map(le, map(len, texts), _text_limits)):
        return texts
    return [text.replace("\0", "")[:limit] for text, limit in zip(texts, _text_limits, strict=True)]


def _listed(value: Any) -> str:
    """A list as JSON text; PostgreSQL's jsonb takes no NUL either."""
    if not isinstance(value, list):
        raise Unfit(f"Not a list: {value!r}")
    return json.dumps(value).decode().replace("\\u0000", "")


def call_ms(given: Row) -> int:
    """The time in a call's id, which decides about its partition and its retention."""
    return uuid7_ms(given[AT["id"]])


def insert_new(rows: Sequence[Row]) -> list[Row]:
    """Insert the rows whose call is not there yet, and return those. Ids within `rows` are distinct.

    Runs inside the caller's transaction.
    """
    return _insert_postgresql(rows) if connection.vendor == "postgresql" else _insert_sqlite(rows)


def _insert_postgresql(rows: Sequence[Row]) -> list[Row]:
    """COPY into a temporary table, from there whatever is new."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE IF NOT EXISTS usage_batch (LIKE usage_requestrecord INCLUDING DEFAULTS)"
            " ON COMMIT DELETE ROWS; DELETE FROM usage_batch"
        )
        with connection.wrap_database_errors, cursor.copy(f"COPY usage_batch ({_NAMES}) FROM STDIN") as copy:
            for each in rows:
                copy.write_row(each)
        cursor.execute(
            f"INSERT INTO usage_requestrecord ({_NAMES}) SELECT {_NAMES} FROM usage_batch"
            " ON CONFLICT (id) DO NOTHING RETURNING id"
        )
        if cursor.rowcount == len(rows):
            return list(rows)
        new = {found for (found,) in cursor.fetchall()}
    return [each for each in rows if each[0] in new]


def _insert_sqlite(rows: Sequence[Row]) -> list[Row]:
    """SQLite has one writer, and our transactions take that place at their begin: looking first is exact."""
    known: set[str] = set()
    with connection.cursor() as cursor:
        for start in range(0, len(rows), 500):
            ids = [each[0].hex for each in rows[start : start + 500]]
            marks = ", ".join(["%s"] * len(ids))
            cursor.execute(f"SELECT id FROM usage_requestrecord WHERE id IN ({marks})", ids)
            known.update(found for (found,) in cursor.fetchall())
        new = [each for each in rows if each[0].hex not in known]
        marks = ", ".join(["%s"] * len(COLUMNS))
        cursor.executemany(
            f"INSERT INTO usage_requestrecord ({_NAMES}) VALUES ({marks})",
            [(each[0].hex, each[1].replace(tzinfo=None).isoformat(" ", "microseconds"), *each[2:]) for each in new],
        )
    return new
