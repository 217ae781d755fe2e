"""The questions dashboards ask, answered from UsageBucket alone.

A range of time is read as few rows as can be exact: its whole UTC days, the quarters of an hour at its edges, and
single minutes where it begins or ends between quarters and minutes are still kept. Sums and histograms are added up
by the database. Money is nano-dollars throughout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import chain, pairwise
from math import ceil
from operator import itemgetter
from typing import Any, Literal
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Aggregate, F, Max, Q, Sum
from django.db.models.functions import Coalesce, Trunc

from usage import closed_days, histogram
from usage.models import UsageBucket
from usage.rollups import DAY, MINUTE, QUARTER
from usage.tops import ALIASES, Ids, Tops

Step = Literal["minute", "hour", "day", "month"]
STEPS: dict[Step, timedelta] = {  # the longest range each may be asked for
    "minute": timedelta(hours=24),
    "hour": timedelta(days=31),
    "day": timedelta(days=400),
    "month": timedelta(days=4000),
}
LONG = timedelta(days=62)  # longer periods have UTC days
OTHER = "Other"

# What one may group by: the column that tells things apart, and the one that names them.
DIMENSIONS = {
    "organization": ("organization_id", "organization"),
    "team": ("team_id", "team"),
    "key": ("key_id", "key"),
    "owner": ("owner", "owner"),
    "model": ("model", "model"),
    "deployment": ("deployment_id", "deployment"),
    "backend": ("backend", "backend"),
    "action": ("action", "action"),
    "status": ("status", "status"),
    "label": ("label", "label"),
}

OK, LIMITED, CANCELLED = Q(status="OK"), Q(status="RESOURCE_EXHAUSTED"), Q(status="CANCELLED")
FAILED = ~OK & ~LIMITED & ~CANCELLED


@dataclass(frozen=True, slots=True)
class Filters:
    """Whose usage, and which. None: no restriction. organizations is what the asking person may see at most."""

    organizations: Sequence[str] | None
    teams: Sequence[str] | None = None
    keys: Sequence[str] | None = None
    owners: Sequence[str] | None = None
    models: Sequence[str] | None = None
    deployments: Sequence[str] | None = None
    backends: Sequence[str] | None = None
    actions: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    within: Q = field(default_factory=Q)  # of UsageBucket: what the asking person may see, where lists cannot say it

    @property
    def condition(self) -> Q:
        named = {
            "organization_id": self.organizations, "team_id": self.teams, "key_id": self.keys, "owner": self.owners,
            "model": self.models, "deployment_id": self.deployments, "backend": self.backends, "action": self.actions,
            "status": self.statuses, "label": self.labels,
        }  # fmt: skip
        return self.within & Q(**{f"{column}__in": list(each) for column, each in named.items() if each is not None})


# A dimension -> the filter that narrows it.
NARROWED_BY = {
    "organization": "organizations", "team": "teams", "key": "keys", "owner": "owners", "model": "models",
    "deployment": "deployments", "backend": "backends", "action": "actions", "status": "statuses", "label": "labels",
}  # fmt: skip


def narrowed(values: Mapping[str, str], within: Q) -> Filters:
    """Filters from one value per dimension ("": rows that have none), of what the asking person may see."""
    named: dict[str, Any] = {NARROWED_BY[name]: [value] for name, value in values.items()}
    return Filters(**{"organizations": None, **named}, within=within)


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end), aware. Steps follow the zone's calendar."""

    start: datetime
    end: datetime
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))

    @property
    def before(self) -> Period:
        """The period of the same length that ends where this one starts."""
        return Period(self.start - (self.end - self.start), self.start, self.zone)

    def steps(self, step: Step) -> list[datetime]:
        """The start of every step that touches the period, in its zone (see `clock`)."""
        zone = self.clock(step) if step == "day" else self.zone
        found = []
        at = floor(self.start.astimezone(zone), step)
        while at < self.end:
            found.append(at)
            at = following(at, step)
        return found

    def clock(self, step: Step) -> tzinfo:
        """The zone to cut steps by. Hours and minutes keep the offset of the start: a clock set back shows one hour
        twice, and they are two. Days of a long period are UTC's, which is what makes them cheap to read."""
        if step in ("minute", "hour"):
            return timezone(self.start.astimezone(self.zone).utcoffset() or timedelta(0))
        return UTC if step == "day" and self.end - self.start > LONG else self.zone


def floor(at: datetime, step: Step) -> datetime:
    """The start of the step `at` lies in, by the clock of its zone."""
    match step:
        case "minute":
            return at.replace(second=0, microsecond=0)
        case "hour":
            return at.replace(minute=0, second=0, microsecond=0)
        case "day":
            return at.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        case "month":
            return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)


def following(at: datetime, step: Step) -> datetime:
    """The start of the next step: real time for minutes and hours, the calendar for days and months."""
    match step:
        case "minute" | "hour":
            length = timedelta(minutes=1) if step == "minute" else timedelta(hours=1)
            return (at.astimezone(UTC) + length).astimezone(at.tzinfo)
        case "day":
            return (at.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=at.tzinfo)
        case "month":
            return at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1)


# Which rows to read


Piece = tuple[int, int, int]  # width, from, to (Unix seconds)


def pieces(start: int, end: int, minutes_from: int) -> Iterator[Piece]:
    """[start, end) in Unix seconds as rows of days, quarters and minutes. What lies between two minutes (or quarters,
    where minutes are gone) is rounded outward."""
    fine = MINUTE if start >= minutes_from else QUARTER
    start, end = start - start % fine, -(-end // fine) * fine
    yield from _pieces(start, end, [width for width in (DAY, QUARTER, MINUTE) if fine <= width])


def _pieces(start: int, end: int, widths: list[int]) -> Iterator[Piece]:
    """The widest rows in the middle, narrower ones at both edges."""
    if start >= end:
        return
    width, *narrower = widths
    low, high = -(-start // width) * width, end - end % width
    if low >= high:
        yield from _pieces(start, end, narrower)
        return
    yield from _pieces(start, low, narrower)
    yield width, low, high
    yield from _pieces(high, end, narrower)


def _pieces_of(period: Period, step: Step | None = None) -> list[Piece]:
    """The roll-ups that make up the period. With a step, none reaches over the edge of one."""
    minutes_from = int((datetime.now(UTC) - timedelta(days=settings.GATEHOUSE.minute_retention_days)).timestamp())
    cuts = [int(period.start.timestamp())]
    if step is not None:
        cuts += [int(at.timestamp()) for at in period.steps(step)[1:]]
    cuts.append(ceil(period.end.timestamp()))  # the minute that has begun this second is part of it
    if step == "minute":
        minutes_from = cuts[0]
    merged: list[Piece] = []
    for start, end in pairwise(cuts):
        for width, low, high in pieces(start, end, minutes_from):
            if merged and merged[-1][0] == width and low <= merged[-1][2]:
                merged[-1] = (width, merged[-1][1], max(high, merged[-1][2]))
            else:
                merged.append((width, low, high))
    return merged


def _parted(found: Iterable[Piece], cut: int) -> tuple[list[Piece], list[Piece]]:
    """Whole days, and quarters between them, up to that midnight; and the rest."""
    closed: list[Piece] = []
    rest: list[Piece] = []
    for width, low, high in found:
        if width == MINUTE or low >= cut:
            rest.append((width, low, high))
            continue
        closed.append((width, low, min(high, cut)))
        if high > cut:
            rest.append((width, cut, high))
    return closed, rest


def _rows(found: Iterable[Piece], filters: Filters) -> Any:  # a QuerySet; what is added to it has no static type
    where = Q(pk__in=[])
    for width, low, high in found:
        where |= Q(width=width, start__gte=_at(low), start__lt=_at(high))
    return UsageBucket.objects.filter(where & filters.condition)


def _grouped(
    period: Period,
    filters: Filters,
    by: Sequence[str],
    sums: Mapping[str, Any],
    step: Step | None = None,
    where: Q | None = None,
) -> list[dict[str, Any]]:
    """Sums (or the largest, where they are a Max) by columns, and by step as "at" when one is given."""
    closed, rest = _parted(_pieces_of(period, step), closed_days.end())
    clock = period.clock(step) if step else UTC
    columns = [*(["at"] if step else []), *by]

    def ask(found: list[Piece]) -> list[dict[str, Any]]:
        rows = _rows(found, filters).filter(where or Q())
        if step:
            rows = rows.annotate(at=Trunc("start", step, tzinfo=clock))
        return list(rows.values(*columns).annotate(**sums).order_by())

    known: list[dict[str, Any]] = []
    if closed:
        named = tuple([(name, repr(each)) for name, each in sums.items()])
        question = (tuple(closed), repr(filters), tuple(columns), named, step, str(clock), repr(where))
        known = _remembered(question, lambda: ask(closed))
    return _together_by(columns, sums, known, ask(rest) if rest else [])


def _tuples(
    found: Sequence[Piece],
    filters: Filters,
    columns: Mapping[str, Any],
    sums: Mapping[str, Any],
    step: Step | None = None,
    clock: tzinfo = UTC,
) -> list[tuple[Any, ...]]:
    """Sums by columns (alias: expression), flat: the Unix second a step starts if one is given, columns, sums."""
    if not found:
        return []
    rows = _rows(found, filters).annotate(**columns)
    if step is None:
        return list(rows.values_list(*columns).annotate(**sums).order_by())
    rows = rows.annotate(at=Trunc("start", step, tzinfo=clock)).values_list("at", *columns)
    return [(at.timestamp(), *rest) for at, *rest in rows.annotate(**sums).order_by()]


def _together_by(
    columns: Sequence[str], sums: Mapping[str, Any], some: list[dict[str, Any]], more: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    if not some or not more:
        return list(some or more)  # what is remembered stays as it is
    largest = {name for name, each in sums.items() if isinstance(each, Max)}
    found = {tuple([row[name] for name in columns]): row for row in some}
    for row in more:
        key = tuple([row[name] for name in columns])
        known = found.get(key)
        if known is not None:
            row = row | {name: _either(known[name], row[name], name in largest) for name in sums}
        found[key] = row
    return list(found.values())


def _either(one: Any, other: Any, largest: bool) -> Any:
    """The sum of two (or the larger one), None being none."""
    if one is None or other is None:
        return one if other is None else other
    return max(one, other) if largest else one + other


@contextmanager
def _roomy() -> Iterator[None]:
    """Groups fit into memory, or the database sorts everything first; and no query is worth compiling."""
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL work_mem = '32MB'; SET LOCAL jit = off")
        yield


def _at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


# What to add up


def _sum(*columns: str, filter: Q | None = None) -> Any:
    total: Any = Coalesce(Sum(columns[0], filter=filter), 0)
    for column in columns[1:]:
        total += Coalesce(Sum(column, filter=filter), 0)
    return total


# Named so that no alias hides the column it is made of.
_OUTCOMES: dict[str, Any] = {
    "n_requests": _sum("requests"),
    "n_ok": _sum("requests", filter=OK),
    "n_rate_limited": _sum("requests", filter=LIMITED),
    "n_cancelled": _sum("requests", filter=CANCELLED),
    "n_failed": _sum("requests", filter=FAILED),
}
_TOKENS: dict[str, Any] = {
    "n_input_tokens": _sum("prompt_tokens", "tool_use_tokens"),
    "n_output_tokens": _sum("output_tokens", "thoughts_tokens"),
    "n_cached_tokens": _sum("cached_tokens"),
}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures named n_something, without the n_."""
    return {name[2:]: value for name, value in row.items() if name.startswith("n_")}


METRICS: dict[str, Mapping[str, Any]] = {
    "spend": {"value": _sum("cost_nano")},
    "requests": {"value": _sum("requests")},
    "input_tokens": {"value": _sum("prompt_tokens", "tool_use_tokens")},
    "output_tokens": {"value": _sum("output_tokens", "thoughts_tokens")},
    "cached_tokens": {"value": _sum("cached_tokens")},
    "thoughts_tokens": {"value": _sum("thoughts_tokens")},
    "errors": {"value": _sum("requests", filter=FAILED)},
    "rate_limited": {"value": _sum("requests", filter=LIMITED)},
    "average_ms": {"value": _sum("total_ms"), "of": _sum("requests")},
    "average_ttft_ms": {"value": _sum("ttft_ms"), "of": _sum("ttft_count")},
}
PERCENTILES: dict[str, tuple[str, float]] = {
    "p50_ms": ("total", 0.50),
    "p95_ms": ("total", 0.95),
    "p99_ms": ("total", 0.99),
    "p50_ttft_ms": ("ttft", 0.50),
    "p95_ttft_ms": ("ttft", 0.95),
    "p99_ttft_ms": ("ttft", 0.99),
}
ADDITIVE = frozenset(METRICS) - {"average_ms", "average_ttft_ms"}  # may be summed up, stacked and compared as shares
METRIC_NAMES = (*METRICS, *PERCENTILES)


def _counts(of: str) -> dict[str, Aggregate]:
    """The histogram of "ttft" or "total", count by count."""
    return {f"sum_of_{name}": Sum(name) for name in histogram.columns(of)}


def _histogram(row: Mapping[str, Any], of: str) -> list[int]:
    return [count or 0 for count in _COUNTED[of](row)]


_COUNTED = {of: itemgetter(*(f"sum_of_{name}" for name in histogram.columns(of))) for of in ("ttft", "total")}


def _aggregates(metric: str) -> Mapping[str, Any]:
    return _counts(PERCENTILES[metric][0]) if metric in PERCENTILES else METRICS[metric]


@dataclass(slots=True)
class _Amount:
    """A metric's value under way: what can be added, and how to read it."""

    metric: str
    value: int = 0
    of: int = 0
    counts: list[int] = field(default_factory=list)

    def add(self, figures: Sequence[int | None]) -> None:
        """Those of _aggregates, in its order."""
        if self.metric in PERCENTILES:
            more = [count or 0 for count in figures]
            self.counts = histogram.merge((self.counts, more)) if self.counts else more
        else:
            self.value += figures[0] or 0
            self.of += (figures[1] or 0) if len(figures) > 1 else 0

    def read(self) -> float | None:
        if self.metric in PERCENTILES:
            return histogram.percentile(self.counts, PERCENTILES[self.metric][1])
        if "of" in METRICS[self.metric]:
            return self.value / self.of if self.of else None
        return self.value


# Answers


@dataclass(frozen=True, slots=True)
class Totals:
    """One period in figures. spend: nano-dollars. Times in milliseconds, None without any."""

    spend: int
    requests: int
    ok: int
    rate_limited: int
    cancelled: int
    failed: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    active_keys: int
    ttft_p50: float | None
    ttft_p95: float | None

    @property
    def success_rate(self) -> float | None:
        """Of the calls that were neither rate-limited here or there, nor left by their client."""
        judged = self.ok + self.failed
        return self.ok / judged if judged else None

    @property
    def cached_share(self) -> float | None:
        return self.cached_tokens / self.input_tokens if self.input_tokens else None


_TOTALS: dict[str, Any] = {
    **_OUTCOMES,
    **_TOKENS,
    "n_spend": _sum("cost_nano"),
    "n_unpriced": _sum("unpriced"),
    **_counts("ttft"),
}


def totals(period: Period, filters: Filters) -> Totals:
    return _totals(_grouped(period, filters, ["key_id"], _TOTALS))


def _totals(by_key: Sequence[Mapping[str, Any]]) -> Totals:
    found = {name: sum([row[name] or 0 for row in by_key]) for name in _TOTALS}
    ttft = _histogram(found, "ttft")
    return Totals(
        **_plain(found),
        active_keys=len(by_key),
        ttft_p50=histogram.percentile(ttft, 0.5),
        ttft_p95=histogram.percentile(ttft, 0.95),
    )


@dataclass(frozen=True, slots=True)
class KeyUsage:
    id: str
    name: str
    organization: str
    team: str
    spend: int
    requests: int
    failed: int
    tokens: int


_KEYS: dict[str, Any] = {
    "n_name": Max("key"),
    "n_organization": Max("organization"),
    "n_team": Max("team"),
    "n_spend": _sum("cost_nano"),
    "n_requests": _OUTCOMES["n_requests"],
    "n_failed": _OUTCOMES["n_failed"],
    **_TOKENS,
}


def top_keys(period: Period, filters: Filters, limit: int = 10) -> list[KeyUsage]:
    """The keys that spent most."""
    return _top_keys(_grouped(period, filters, ["key_id"], _KEYS), limit)


def _top_keys(by_key: Iterable[Mapping[str, Any]], limit: int) -> list[KeyUsage]:
    rows = sorted(by_key, key=lambda row: (-row["n_spend"], -row["n_requests"], row["key_id"]))[:limit]
    return [
        KeyUsage(
            id=row["key_id"],
            name=row["n_name"],
            organization=row["n_organization"],
            team=row["n_team"],
            spend=row["n_spend"],
            requests=row["n_requests"],
            failed=row["n_failed"],
            tokens=row["n_input_tokens"] + row["n_output_tokens"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Before:
    spend: int
    requests: int


@dataclass(frozen=True, slots=True)
class Overview:
    """keys: those that spent most."""

    now: Totals
    before: Before
    keys: list[KeyUsage]

    def change(self, name: str) -> float | None:
        """How much spend or requests grew against the period before: 0.25 is a quarter more. None from nothing."""
        before = getattr(self.before, name)
        return (getattr(self.now, name) - before) / before if before else None


def overview(period: Period, filters: Filters, top: int = 10) -> Overview:
    """The cards and the table of keys, in one question about each period."""
    now = _grouped(period, filters, ["key_id"], _TOTALS | _KEYS)
    sums = {name: _TOTALS[name] for name in ("n_spend", "n_requests")}
    earlier = _grouped(period.before, filters, ["organization_id"], sums)
    before = Before(**_plain({name: sum([row[name] for row in earlier]) for name in sums}))
    return Overview(_totals(now), before, _top_keys(now, top))


@dataclass(frozen=True, slots=True)
class Line:
    """One thing over time. id "" with name "Other": everything that is not among the top ones."""

    id: str
    name: str
    values: list[float | None]
    total: float | None


@dataclass(frozen=True, slots=True)
class Series:
    steps: list[datetime]
    lines: list[Line]


class TooFine(ValueError):
    """The step is too fine for the range; the message says which range is allowed."""


def series(
    period: Period, filters: Filters, metric: str = "spend", by: str | None = None, step: Step = "day", top: int = 8
) -> Series:
    """A metric over time, one line per value of `by`, the largest first, the rest as "Other"."""
    _check(period, step)
    cells = _cells(period, filters, metric, [by] if by else [], step, top)
    steps = period.steps(step)
    starts = [at.timestamp() for at in steps]
    lines = [_line(group[0] if by else ("", metric), values, metric, starts) for group, values in cells.items()]
    lines.sort(key=lambda line: (_is_other(line), -(line.total or 0), line.id, line.name))
    return Series(steps, lines)


def _check(period: Period, step: Step) -> None:
    if period.end - period.start > STEPS[step] + timedelta(days=1):
        raise TooFine(f"Steps of a {step} are shown for at most {STEPS[step].days or 1} days.")


Named = tuple[str, str]  # id and name
Group = tuple[Named, ...]  # per dimension
Cells = dict[Group, dict[float, _Amount]]  # by the Unix second a step starts


def _cells(period: Period, filters: Filters, metric: str, by: Sequence[str], step: Step, top: int) -> Cells:
    """The metric per group and step; groups that are not among the top ones are one, Other.

    Which are the top ones is asked first: one sum per group. Figures by step are then asked of those alone and of
    all others together. A name that changed meanwhile is the latest one.
    """
    closed, rest = _parted(_pieces_of(period, step), closed_days.end())
    clock, columns, figures = period.clock(step), [DIMENSIONS[name][0] for name in by], _aggregates(metric)
    ids = {alias: F(column) for alias, column in zip(ALIASES, columns, strict=False)}
    fresh = _tuples(rest, filters, ids, {**_names(by), **figures}, step, clock)
    question = (tuple(closed), repr(filters), tuple(by), metric)
    whole = over = []
    if closed and by:
        whole = _remembered(question, lambda: _tuples(closed, filters, ids, {**_names(by), **figures}))
    tops, names = _chosen(chain(whole, (row[1:] for row in fresh)), metric, by, top)
    if closed:
        folded = tops.columns(columns)
        over = _remembered(
            (*question, step, str(clock), tops.question), lambda: _tuples(closed, filters, folded, figures, step, clock)
        )
    size = len(by)
    cells: defaultdict[Ids, dict[float, _Amount]] = defaultdict(dict)
    for row in over:
        cells[row[1 : 1 + size]].setdefault(row[0], _Amount(metric)).add(row[1 + size :])
    for row in fresh:
        cells[tops.folded(row[1 : 1 + size])].setdefault(row[0], _Amount(metric)).add(row[1 + 2 * size :])
    return {
        tuple([_named(each, found, names) for each, found in zip(by, group, strict=True)]): values
        for group, values in cells.items()
    }


def _remembered(question: Hashable, ask: Callable[[], closed_days.Rows]) -> Any:
    def ask_much() -> closed_days.Rows:
        with _roomy():
            return ask()

    return closed_days.remembered(question, ask_much)


Names = dict[tuple[str, str], str]  # of a dimension and an id


def _named(dimension: str, found: str | None, names: Names) -> Named:
    """An id that came between two questions is its own name for once."""
    return ("", OTHER) if found is None else (found, names.get((dimension, found), found))


def _chosen(rows: Iterable[Sequence[Any]], metric: str, by: Sequence[str], top: int) -> tuple[Tops, Names]:
    """The largest groups, and the largest parts of each, and what they are called. rows: ids, names, figures."""
    size = len(by)
    amounts: dict[tuple[str, ...], _Amount] = {}
    names: Names = {}
    for row in rows:
        ids = tuple(row[:size])
        for named, name in zip(zip(by, ids, strict=True), row[size : 2 * size], strict=True):
            names[named] = max(name or "", names.get(named, ""))
        amounts.setdefault(ids, _Amount(metric)).add(row[2 * size :])
    if not by:
        return Tops(None, {}), names
    groups: defaultdict[str, list[_Amount]] = defaultdict(list)
    for ids, amount in amounts.items():
        groups[ids[0]].append(amount)
    first = _largest(groups, metric, by[0], names, top)
    parts: defaultdict[str | None, defaultdict[str, list[_Amount]]] = defaultdict(lambda: defaultdict(list))
    for ids, amount in amounts.items():
        for part in ids[1:]:
            parts[ids[0] if first is None or ids[0] in first else None][part].append(amount)
    kept = {group: _largest(inner, metric, by[1], names, top) for group, inner in parts.items()}
    return Tops(first, {group: largest for group, largest in kept.items() if largest is not None}), names


def _largest(
    groups: Mapping[str, list[_Amount]], metric: str, dimension: str, names: Names, top: int
) -> frozenset[str] | None:
    """The ids of the largest ones; None when there are no more than that."""
    if len(groups) <= top:
        return None
    values = {found: _whole(amounts, metric).read() or 0 for found, amounts in groups.items()}
    return frozenset(sorted(values, key=lambda found: (-values[found], names[(dimension, found)], found))[:top])


def _names(by: Iterable[str]) -> dict[str, Aggregate]:
    return {f"name_{name}": Max(DIMENSIONS[name][1]) for name in by}


def _together(many: Collection[dict[float, _Amount]], metric: str) -> dict[float, _Amount]:
    if len(many) == 1:
        return next(iter(many))
    total: dict[float, _Amount] = {}
    for values in many:
        for at, amount in values.items():
            _add(total.setdefault(at, _Amount(metric)), amount)
    return total


def _add(total: _Amount, more: _Amount) -> None:
    total.value += more.value
    total.of += more.of
    if more.counts:  # never changed in place: two totals may share them
        total.counts = histogram.merge((total.counts, more.counts)) if total.counts else more.counts


def _whole(values: Iterable[_Amount], metric: str) -> _Amount:
    amounts = list(values)
    if metric in PERCENTILES:
        return _Amount(metric, counts=histogram.merge([each.counts for each in amounts]))
    of = sum([each.of for each in amounts]) if metric not in ADDITIVE else 0
    return _Amount(metric, sum([each.value for each in amounts]), of)


def _line(named: Named, values: Mapping[float, _Amount], metric: str, starts: Sequence[float]) -> Line:
    if metric in ADDITIVE:
        none = _Amount(metric)
        read: list[float | None] = [values.get(at, none).value for at in starts]
    else:
        read = [values[at].read() if at in values else None for at in starts]
    return Line(named[0], named[1], read, _whole(values.values(), metric).read())


def _is_other(one: Line | Entry) -> bool:
    return not one.id and one.name == OTHER


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the explorer. share: of the total, None where a share makes no sense. values: one per step."""

    id: str
    name: str
    value: float | None
    share: float | None
    values: list[float | None]
    parts: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exploration:
    metric: str
    total: float | None
    steps: list[datetime]
    entries: list[Entry]


def explore(
    period: Period,
    filters: Filters,
    metric: str = "spend",
    group: str = "model",
    subgroup: str | None = None,
    step: Step = "day",
    top: int = 10,
) -> Exploration:
    """A metric by one or two dimensions over time: the top ones and "Other", with shares."""
    _check(period, step)
    cells = _cells(period, filters, metric, [group, subgroup] if subgroup else [group], step, top)
    steps = period.steps(step)
    total = _whole((amount for values in cells.values() for amount in values.values()), metric).read()
    return Exploration(metric, total, steps, _entries(cells, metric, [at.timestamp() for at in steps], total))


def _entries(cells: Cells, metric: str, starts: Sequence[float], total: float | None) -> list[Entry]:
    """One level: groups by their first dimension; deeper dimensions become parts. Other is the last."""
    by_first: defaultdict[Named, Cells] = defaultdict(dict)
    for group, values in cells.items():
        by_first[group[0]][group[1:]] = values
    entries = [_entry(named, inner, metric, starts, total) for named, inner in by_first.items()]
    return sorted(entries, key=lambda entry: (_is_other(entry), -(entry.value or 0), entry.name, entry.id))


def _entry(named: Named, inner: Cells, metric: str, starts: Sequence[float], total: float | None) -> Entry:
    line = _line(named, _together(inner.values(), metric), metric, starts)
    share = line.total / total if metric in ADDITIVE and total and line.total is not None else None
    parts = _entries(inner, metric, starts, total) if any(inner) else []
    return Entry(line.id, line.name, line.total, share, line.values, parts)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests per step by how they ended; and time to first token, None where there was none."""

    steps: list[datetime]
    ok: list[int]
    rate_limited: list[int]
    cancelled: list[int]
    failed: list[int]
    ttft_p50: list[float | None]
    ttft_p95: list[float | None]


def outcomes(period: Period, filters: Filters, step: Step = "day") -> Outcomes:
    _check(period, step)
    rows = _grouped(period, filters, [], {**_OUTCOMES, **_counts("ttft")}, step)
    by_time = {row["at"].timestamp(): row for row in rows}
    steps = period.steps(step)
    found = [by_time.get(at.timestamp()) for at in steps]
    ttft = [_histogram(row, "ttft") if row else [] for row in found]

    def counted(name: str) -> list[int]:
        return [row[f"n_{name}"] if row else 0 for row in found]

    return Outcomes(
        steps,
        counted("ok"),
        counted("rate_limited"),
        counted("cancelled"),
        counted("failed"),
        [histogram.percentile(counts, 0.5) for counts in ttft],
        [histogram.percentile(counts, 0.95) for counts in ttft],
    )


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failed calls that look alike. last: the start of the latest bucket that has one."""

    status: str
    model: str
    deployment_id: str
    deployment: str
    requests: int
    last: datetime


def recent_errors(period: Period, filters: Filters, limit: int = 10) -> list[ErrorGroup]:
    """What failed (rate limits included), grouped by status, model and deployment, the most frequent first."""
    sums = {
        "n_deployment": Max("deployment"),
        "n_requests": _sum("requests"),
        "n_last": Max("start"),
        "day": Max("start", filter=Q(width=DAY)),
    }
    rows = _grouped(period, filters, ["status", "model", "deployment_id"], sums, where=~OK & ~CANCELLED)
    rows.sort(key=lambda row: (row["status"], row["model"], row["deployment_id"]))
    rows = sorted(rows, key=lambda row: (row["n_requests"], row["n_last"]), reverse=True)[:limit]
    exact = _latest([row for row in rows if row["n_last"] == row["day"]], filters)
    return [
        ErrorGroup(
            status=row["status"],
            model=row["model"],
            deployment_id=row["deployment_id"],
            **_plain(row | {"n_last": exact.get((row["status"], row["model"], row["deployment_id"]), row["n_last"])}),
        )
        for row in rows
    ]


def _latest(groups: Sequence[Mapping[str, Any]], filters: Filters) -> dict[tuple[str, str, str], datetime]:
    """The latest quarter of an hour of groups of which only the day is known: (status, model, deployment id) to start."""
    names = ("status", "model", "deployment_id")
    where = Q(pk__in=[])
    for row in groups:
        same = {name: row[name] for name in names}
        where |= Q(start__gte=row["day"], start__lt=row["day"] + timedelta(seconds=DAY), **same)
    quarters = UsageBucket.objects.filter(where & filters.condition, width=QUARTER)
    found = quarters.values(*names).annotate(last=Max("start")).order_by() if groups else ()
    return {(row["status"], row["model"], row["deployment_id"]): row["last"] for row in found}


@dataclass(frozen=True, slots=True)
class DeploymentUsage:
    """share: of all calls that reached a deployment in the period. total_p95: milliseconds."""

    id: str
    name: str
    spend: int
    requests: int
    ok: int
    rate_limited: int
    cancelled: int
    failed: int
    share: float
    total_p95: float | None

    @property
    def error_rate(self) -> float | None:
        judged = self.ok + self.failed
        return self.failed / judged if judged else None


def deployments(period: Period, filters: Filters) -> list[DeploymentUsage]:
    """Every deployment that was reached in the period, the busiest first."""
    sums = {**_OUTCOMES, "n_name": Max("deployment"), "n_spend": _sum("cost_nano"), **_counts("total")}
    rows = _grouped(period, filters, ["deployment_id"], sums, where=~Q(deployment_id=""))
    rows.sort(key=lambda row: (-row["n_requests"], row["deployment_id"]))
    calls = sum(row["n_requests"] for row in rows) or 1
    return [
        DeploymentUsage(
            id=row["deployment_id"],
            share=row["n_requests"] / calls,
            total_p95=histogram.percentile(_histogram(row, "total"), 0.95),
            **_plain(row),
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Hour:
    """What one deployment answered in one hour. failed leaves out rate limits and clients that left."""

    start: datetime
    requests: int
    failed: int
    rate_limited: int


def hours(period: Period, filters: Filters) -> dict[str, list[Hour]]:
    """By the id of each deployment that was reached: one entry per hour of the period, empty hours too."""
    _check(period, "hour")
    sums = {name: _OUTCOMES[name] for name in ("n_requests", "n_failed", "n_rate_limited")}
    rows = _grouped(period, filters, ["deployment_id"], sums, "hour", ~Q(deployment_id=""))
    found: defaultdict[str, dict[float, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        found[row["deployment_id"]][row["at"].timestamp()] = row
    empty = {"n_requests": 0, "n_failed": 0, "n_rate_limited": 0}
    steps = period.steps("hour")
    return {
        name: [Hour(at, **_plain(by_time.get(at.timestamp(), empty))) for at in steps]
        for name, by_time in found.items()
    }


def each(period: Period, filters: Filters, metric: str, by: Sequence[str], step: Step) -> Iterator[list[Any]]:
    """Every figure of an exploration, none left out: [start of step, id and name per dimension, value], by time.

    For exports: rows come from the database as they are read.
    """
    _check(period, step)
    columns = [DIMENSIONS[name][0] for name in by]
    rows = (
        _rows(_pieces_of(period, step), filters)
        .annotate(at=Trunc("start", step, tzinfo=period.clock(step)))
        .values_list("at", *columns)
        .annotate(**_names(by), **_aggregates(metric))
        .order_by("at", *columns)
    )
    for at, *row in rows.iterator(chunk_size=1000):
        amount = _Amount(metric)
        amount.add(row[2 * len(by) :])
        named = [part for found, name in zip(row, row[len(by) :], strict=False) for part in (found, name or "")]
        yield [at, *named[: 2 * len(by)], amount.read()]
