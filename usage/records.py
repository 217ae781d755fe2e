"""Events as rows of RequestRecord, and the insert that takes each call once."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from lib import json
from lib.ids import uuid7_ms

Row = tuple[Any, ...]
Json = dict[str, Any]

_MAX_BIGINT = 2**63 - 1
_MAX_INT = 2**31 - 1
_EMPTY = "[]"


class Unfit(ValueError):
    """An event that no row can be made of."""


def _text(name: str, limit: int) -> Callable[[Json], str]:
    """A text cut to its column, without NUL (PostgreSQL takes none)."""

    def read(event: Json) -> str:
        value = event.get(name) or ""
        if not isinstance(value, str):
            raise Unfit(f"{name} is not text")
        if "\0" in value:
            value = value.replace("\0", "")
        return value if len(value) <= limit else value[:limit]

    return read


def _count(name: str, limit: int = _MAX_BIGINT) -> Callable[[Json], int]:
    def read(event: Json) -> int:
        return _whole(event.get(name) or 0, name, limit)

    return read


def _maybe(name: str, limit: int) -> Callable[[Json], int | None]:
    def read(event: Json) -> int | None:
        value = event.get(name)
        return None if value is None else _whole(value, name, limit)

    return read


def _token(name: str) -> Callable[[Json], int]:
    def read(event: Json) -> int:
        return _whole(event["tokens"].get(name) or 0, name, _MAX_BIGINT)

    return read


def _whole(value: Any, name: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise Unfit(f"{name} is not a whole number between 0 and {limit}")
    return value


def _list(name: str) -> Callable[[Json], str]:
    """A list as JSON text; PostgreSQL's jsonb takes no NUL either."""

    def read(event: Json) -> str:
        value = event.get(name)
        if not value:
            return _EMPTY
        if not isinstance(value, list):
            raise Unfit(f"{name} is not a list")
        return json.dumps(value).decode().replace("\\u0000", "")

    return read


def _stream(event: Json) -> bool:
    return bool(event.get("stream"))


def _started(event: Json) -> datetime:
    return datetime.fromtimestamp(event["started_ms"] / 1000, UTC)


def _id(event: Json) -> uuid.UUID:
    return uuid.UUID(event["call_id"])


COLUMNS: dict[str, Callable[[Json], Any]] = {
    "id": _id,
    "started_at": _started,
    "organization_id": _text("organization_id", 40),
    "organization": _text("organization", 100),
    "team_id": _text("team_id", 40),
    "team": _text("team", 100),
    "key_id": _text("key_id", 40),
    "key": _text("key", 100),
    "owner": _text("owner", 254),
    "action": _text("action", 30),
    "stream": _stream,
    "requested_model": _text("requested_model", 200),
    "model": _text("model", 200),
    "deployment_id": _text("deployment_id", 40),
    "deployment": _text("deployment", 320),
    "connection": _text("connection", 100),
    "backend": _text("backend", 40),
    "upstream_model": _text("upstream_model", 200),
    "http_status": _count("http_status", 32_767),
    "status": _text("status", 24),
    "error": _text("error", 4_000),
    "finish_reason": _text("finish_reason", 40),
    "prompt_tokens": _token("prompt"),
    "cached_tokens": _token("cached"),
    "cache_write_tokens": _token("cache_write"),
    "tool_use_tokens": _token("tool_use"),
    "output_tokens": _token("candidates"),
    "thoughts_tokens": _token("thoughts"),
    "audio_prompt_tokens": _token("audio_prompt"),
    "image_prompt_tokens": _token("image_prompt"),
    "audio_output_tokens": _token("audio_output"),
    "cost_nano": _maybe("cost_nano", _MAX_BIGINT),
    "price_version": _text("price_version", 80),
    "ttft_ms": _maybe("ttft_ms", _MAX_INT),
    "total_ms": _count("total_ms", _MAX_INT),
    "attempts": _list("attempts"),
    "dropped": _list("dropped"),
    "client": _text("client", 200),
    "address": _text("address", 45),
    "label": _text("label", 100),
    "tags": _list("tags"),
    "flags": _list("flags"),
    "limit_ids": _list("limit_ids"),
}
AT = {name: index for index, name in enumerate(COLUMNS)}
_READERS = tuple(COLUMNS.values())
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)


def row(event: Json) -> Row:
    """The values of COLUMNS, in their order. Raises Unfit."""
    try:
        return tuple([read(event) for read in _READERS])
    except (KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise Unfit(f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        raise error if isinstance(error, Unfit) else Unfit(str(error)) from error


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
            "CREATE TEMPORARY TABLE IF NOT EXISTS usage_batch (LIKE usage_requestrecord INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
        )
        with cursor.copy(f"COPY usage_batch ({_NAMES}) FROM STDIN") as copy:
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
