"""--from and --to of the commands that work on a period."""

from __future__ import annotations

from datetime import UTC, datetime

from django.core.management.base import CommandError, CommandParser
from django.utils.dateparse import parse_date, parse_datetime


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--from", dest="start", required=True, help="2026-11-01, or 2026-11-01T12:00Z. UTC without a zone."
    )
    parser.add_argument("--to", dest="end", required=True, help="The first moment after the period.")


def read(start: str, end: str) -> tuple[datetime, datetime]:
    """Both as UTC. Raises CommandError."""
    found = _moment("--from", start), _moment("--to", end)
    if found[0] >= found[1]:
        raise CommandError("--from must lie before --to.")
    return found


def _moment(option: str, text: str) -> datetime:
    at: datetime | None
    try:
        at = parse_datetime(text)
        if at is None and (day := parse_date(text)) is not None:
            at = datetime(day.year, day.month, day.day)
    except ValueError:
        at = None
    if at is None:
        raise CommandError(f"{option}: '{text}' is no date. Use 2026-11-01 or 2026-11-01T12:00Z.")
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
