"""How people say things on the command line: durations, moments, names of tenants and keys."""

from __future__ import annotations

import getpass
import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Final

from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from keys.audit import Actor
from keys.models import Organization, Team, VirtualKey

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """`90s`, `15m`, `24h`, `30d`, `2w`; a plain 0 is none."""
    if text == "0":
        return timedelta(0)
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if not found:
        raise CommandError(f"'{text}' is not a duration; say for example 15m, 24h, 30d or 2w.")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def moment(text: str) -> datetime:
    """A duration from now, a date (its beginning, UTC) or a date and time."""
    try:
        at = parse_datetime(text)
        if at is None and (day := parse_date(text)) is not None:
            at = datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError:
        raise CommandError(f"'{text}' is not a date that exists.") from None
    if at is None:
        return timezone.now() + duration(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def names(text: str | None) -> list[str] | None:
    """`a,b` as a list; not given is None; given but empty is the empty list."""
    return None if text is None else [each.strip() for each in text.split(",") if each.strip()]


def organization(slug: str) -> Organization:
    try:
        return Organization.objects.get(slug=slug)
    except Organization.DoesNotExist:
        known = ", ".join(Organization.objects.order_by("slug").values_list("slug", flat=True)[:20])
        raise CommandError(f"There is no organization '{slug}'. There is: {known or 'none yet'}.") from None


def team(slug: str, of: Organization) -> Team:
    try:
        return of.teams.get(slug=slug)
    except Team.DoesNotExist:
        known = ", ".join(of.teams.order_by("slug").values_list("slug", flat=True)[:20])
        raise CommandError(f"{of.name} has no team '{slug}'. It has: {known or 'none yet'}.") from None


def key(text: str) -> VirtualKey:
    """A key by its id."""
    try:
        return VirtualKey.objects.select_related("organization").get(pk=uuid.UUID(text))
    except (ValueError, VirtualKey.DoesNotExist):
        raise CommandError(f"There is no key with the id '{text}'; `manage.py listkeys` shows them.") from None


def actor() -> Actor:
    """Whoever sits at this shell."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "command line"
    return Actor(name=name, source="command")
