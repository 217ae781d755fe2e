"""What the query string of a usage page asks for: a span of time, filters, and links that keep them.

The state of a page is its address: what is not understood is left out, and a foreign id simply finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import QueryDict
from django.urls import get_script_prefix, reverse
from django.utils import timezone

from keys.principal import Principal
from usage.summaries import NARROWED_BY, STEPS, Filters, Period, Step, narrowed

SPANS: dict[str, timedelta] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
}
RANGES = (*SPANS, "mtd", "custom")
RANGE_LABELS = {"mtd": "Month to date", "custom": "Custom"}
LONGEST = timedelta(days=3650)
NONE = "-"  # in a filter: rows that have no value there


@dataclass(frozen=True, slots=True)
class Asked:
    """A span of time and filters. first, last: the days of a custom range, as the form shows them."""

    range: str
    period: Period
    values: Mapping[str, str]
    first: str = ""
    last: str = ""

    def filters(self, principal: Principal) -> Filters:
        """Those of the address, within what this person may see."""
        values = {name: "" if value == NONE else value for name, value in self.values.items()}
        return narrowed(values, principal.condition("usage.usagebucket"))

    def pairs(self) -> dict[str, str]:
        """This state as the names and values of a query string."""
        days = {"first": self.first, "last": self.last} if self.range == "custom" else {}
        return {"range": self.range, **days, **self.values}

    def query(self, **changed: str) -> str:
        """This state as a query string, with some changed; "" takes one away."""
        return urlencode({name: value for name, value in {**self.pairs(), **changed}.items() if value})

    def requests(
        self, start: datetime | None = None, end: datetime | None = None, more: Mapping[str, str] | None = None
    ) -> str:
        """The address of the requests behind a figure: the same filters, in this span of time."""
        span = {
            "from": (start or self.period.start).astimezone(UTC).isoformat(timespec="milliseconds"),
            "to": (end or self.period.end).astimezone(UTC).isoformat(timespec="milliseconds"),
        }
        query = urlencode({**self.values, **{name: value or NONE for name, value in (more or {}).items()}, **span})
        return f"{_requests_page(get_script_prefix())}?{query}"


@cache
def _requests_page(prefix: str) -> str:
    """A page has hundreds of links to it: looked up once for each place the site is served at."""
    return reverse("admin:usage_requestrecord_changelist")


def read(given: QueryDict, zone: ZoneInfo) -> Asked:
    values = {name: value for name in NARROWED_BY if (value := clean(given.get(name, "")))}
    wanted = given.get("range", "")
    now = timezone.now()
    if wanted == "custom" and (days := custom(given, zone)) is not None:
        first, last = days
        period = Period(
            midnight(first, zone), min(midnight(last + timedelta(days=1), zone), following_minute(now)), zone
        )
        return Asked("custom", period, values, first.isoformat(), last.isoformat())
    if wanted == "mtd":
        start = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return Asked("mtd", Period(start, following_minute(now), zone), values)
    name = wanted if wanted in SPANS else "7d"
    return Asked(name, Period(now - SPANS[name], now, zone), values)


def clean(text: object, longest: int = 200) -> str:
    """A text of an address as a database may be asked for it."""
    return str(text).replace("\x00", "").strip()[:longest]


def custom(given: QueryDict, zone: ZoneInfo) -> tuple[date, date] | None:
    """The days from `first` to `last`, both included; None when they cannot be read or lie ahead."""
    try:
        first, last = date.fromisoformat(given.get("first", "")), date.fromisoformat(given.get("last", ""))
    except ValueError:
        return None
    today = timezone.now().astimezone(zone).date()
    last = min(last, today)
    return (max(first, last - LONGEST), last) if first <= last and first.year > 2000 else None


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def following_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0) + timedelta(minutes=1)


def steps_for(period: Period) -> list[Step]:
    """Steps neither too fine for this span nor longer than it."""
    span = period.end - period.start
    lengths = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
    fitting = [step for step, longest in STEPS.items() if span <= longest and lengths.get(step, timedelta()) < span]
    return fitting


def step_for(period: Period, wanted: str) -> Step:
    """The step asked for, when it fits; else one that gives a readable number of bars."""
    fitting = steps_for(period)
    if wanted in fitting:
        return wanted
    span = period.end - period.start
    best: Step = "minute" if span <= timedelta(hours=2) else "hour" if span <= timedelta(days=2) else "day"
    if span > timedelta(days=120):
        best = "month"
    return best if best in fitting else fitting[0]


def zone_of(principal: Principal) -> ZoneInfo:
    """The zone days are cut by: that of the person's organization, UTC for those who see several."""
    found = list(principal.organizations.values_list("time_zone", flat=True)[:2])
    return ZoneInfo(found[0]) if len(found) == 1 else ZoneInfo("UTC")
