"""The usage explorer: a metric by one or two dimensions over time, as chart, table, CSV and JSON. Reads roll-ups."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from keys.principal import Principal, principal_of
from proxy_site.console import asked
from proxy_site.console.asked import Asked
from proxy_site.console.exports import csv_response
from usage import figures, prices, summaries
from usage.admin import choices_of
from usage.models import SavedView
from usage.summaries import ADDITIVE, DIMENSIONS, METRIC_NAMES, Entry, Exploration, Step, following

METRICS = {  # name: (label, unit)
    "spend": ("Spend", "usd"),
    "requests": ("Requests", "count"),
    "input_tokens": ("Input tokens", "count"),
    "output_tokens": ("Output tokens", "count"),
    "cached_tokens": ("Cached tokens", "count"),
    "thoughts_tokens": ("Thoughts tokens", "count"),
    "errors": ("Errors", "count"),
    "rate_limited": ("Rate limited", "count"),
    "average_ms": ("Average time", "ms"),
    "average_ttft_ms": ("Average first token", "ms"),
    "p50_ms": ("Time, p50", "ms"),
    "p95_ms": ("Time, p95", "ms"),
    "p99_ms": ("Time, p99", "ms"),
    "p50_ttft_ms": ("First token, p50", "ms"),
    "p95_ttft_ms": ("First token, p95", "ms"),
    "p99_ttft_ms": ("First token, p99", "ms"),
}
assert set(METRICS) == set(METRIC_NAMES)
GROUPS = {
    "model": "Model", "key": "Key", "team": "Team", "organization": "Organization", "owner": "Owner",
    "label": "End user", "deployment": "Deployment", "backend": "Backend", "action": "Action", "status": "Status",
}  # fmt: skip
assert set(GROUPS) == set(DIMENSIONS)
TOPS = (5, 10, 20, 50)
STEP_LABELS = {"minute": "%H:%M", "hour": "%d %b %H:%M", "day": "%d %b", "month": "%b %Y"}
UNITS: dict[str, Callable[[Any], str]] = {
    "usd": lambda value: figures.dollars(round(value)),
    "count": figures.compact,
    "ms": figures.duration,
}
MOST_VIEWS = 50


@dataclass(frozen=True, slots=True)
class Question:
    """What the address asks for."""

    asked: Asked
    metric: str
    group: str
    subgroup: str
    step: Step
    top: int

    @property
    def unit(self) -> str:
        return METRICS[self.metric][1]

    @property
    def by(self) -> list[str]:
        return [self.group, *([self.subgroup] if self.subgroup else [])]

    def query(self, **changed: str) -> str:
        """This state as a query string, with some changed; "" takes one away."""
        now = {
            **self.asked.pairs(),
            "metric": self.metric,
            "group": self.group,
            "subgroup": self.subgroup,
            "step": self.step,
            "top": str(self.top),
            **changed,
        }
        return urlencode({name: value for name, value in now.items() if value})


def read(given: QueryDict, principal: Principal) -> Question:
    found = asked.read(given, asked.zone_of(principal))
    group = chosen(given, "group", GROUPS, "model")
    subgroup = chosen(given, "subgroup", GROUPS, "")
    top = given.get("top", "")
    return Question(
        asked=found,
        metric=chosen(given, "metric", METRICS, "spend"),
        group=group,
        subgroup="" if subgroup == group else subgroup,
        step=asked.step_for(found.period, given.get("step", "")),
        top=int(top) if top in map(str, TOPS) else 10,
    )


def chosen(given: QueryDict, name: str, among: dict[str, Any], otherwise: str) -> str:
    value = given.get(name, "")
    return value if value in among else otherwise


def explore(question: Question, principal: Principal) -> Exploration:
    return summaries.explore(
        question.asked.period,
        question.asked.filters(principal),
        question.metric,
        question.group,
        question.subgroup or None,
        question.step,
        question.top,
    )


# The page


def page(request: HttpRequest) -> HttpResponse:
    principal = principal_of(request)
    question = read(request.GET, principal)
    found = explore(question, principal)
    context = {
        **admin.site.each_context(request),
        "title": "Usage explorer",
        "question": question,
        "asked": question.asked,
        "zone": str(question.asked.period.zone),
        "rows": list(rows(found, question)),
        "total": told(found.total, question.unit),
        "additive": question.metric in ADDITIVE,
        "metric_label": METRICS[question.metric][0],
        "total_link": question.asked.requests(),
        "charts": chart(found, question),
        "ranges": [
            (name, asked.RANGE_LABELS.get(name, name), question.query(range=name, first="", last=""))
            for name in asked.RANGES
            if name != "custom"
        ],
        "metrics": [(name, label) for name, (label, _unit) in METRICS.items()],
        "groups": list(GROUPS.items()),
        "group_label": GROUPS[question.group],
        "steps": asked.steps_for(question.asked.period),
        "tops": TOPS,
        "choices": choices_of(principal),
        "chips": chips(question, found),
        "views": SavedView.objects.filter(user_id=str(request.user.pk)).order_by("name")[:MOST_VIEWS],
        "query": question.query(),
    }
    return TemplateResponse(request, "gatehouse/explorer.html", context)


def told(value: float | None, unit: str) -> str:
    return "–" if value is None else UNITS[unit](value)


def is_other(entry: Entry) -> bool:
    return not entry.id and entry.name == summaries.OTHER


def rows(found: Exploration, question: Question) -> Iterator[dict[str, Any]]:
    """The table: every entry, and below it its parts."""
    most = max((entry.value or 0 for entry in found.entries), default=0) or 1
    for entry in found.entries:
        yield row(entry, question, most, deep=False)
        for part in entry.parts:
            yield row(part, question, most, deep=True, of=entry)


def row(entry: Entry, question: Question, most: float, *, deep: bool, of: Entry | None = None) -> dict[str, Any]:
    link = ""
    if not is_other(entry) and not (of and is_other(of)):
        outer = {question.group: of.id} if of else {}
        link = question.asked.requests(more={**outer, question.subgroup if deep else question.group: entry.id})
    return {
        "name": entry.name or nameless(question.subgroup if deep else question.group),
        "value": told(entry.value, question.unit),
        "share": entry.share,
        "width": round(100 * (entry.value or 0) / most),
        "spark": sparkline(entry.values),
        "deep": deep,
        "link": link,
        "narrow": "" if deep or is_other(entry) else question.query(**{question.group: entry.id or asked.NONE}),
    }


def nameless(dimension: str) -> str:
    return f"no {GROUPS[dimension].lower()}"


def sparkline(values: list[float | None], width: int = 96, height: int = 20) -> str:
    """The points of an SVG polyline; "" when there is nothing to see."""
    known = [value or 0 for value in values]
    if len(known) < 2 or not any(known):
        return ""
    most = max(known)
    wide = width / (len(known) - 1)
    return " ".join(f"{at * wide:.1f},{height - 1 - value / most * (height - 2):.1f}" for at, value in enumerate(known))


def chart(found: Exploration, question: Question) -> dict[str, Any]:
    """Bars that stack where figures may be added, lines where not. Each bar leads to the requests of its step."""
    scale = 1e9 if question.unit == "usd" else 1
    links = [question.asked.requests(*bounds(found, question, at)) for at in range(len(found.steps))]
    return {
        "labels": [at.strftime(STEP_LABELS[question.step]) for at in found.steps],
        "links": links,
        "explored": [
            {
                "label": entry.name or nameless(question.group),
                "data": [None if value is None else value / scale for value in entry.values],
                "narrow": "" if is_other(entry) else urlencode({question.group: entry.id or asked.NONE}),
            }
            for entry in found.entries
        ],
    }


def bounds(found: Exploration, question: Question, at: int) -> tuple[datetime, datetime]:
    """The span of one step, within the period."""
    start, period = found.steps[at], question.asked.period
    return max(start, period.start), min(following(start, question.step), period.end)


def chips(question: Question, found: Exploration) -> list[dict[str, str]]:
    """The filters that hold, each with the address without it."""
    names = {entry.id: entry.name for entry in found.entries}
    shown = []
    for name, value in question.asked.values.items():
        known = names.get(value, "") if name == question.group else ""
        text = nameless(name) if value == asked.NONE else known or named(name, value)
        shown.append({"label": GROUPS[name], "text": text, "without": question.query(**{name: ""})})
    return shown


def named(dimension: str, value: str) -> str:
    """The name of a thing that a filter knows by its id: what its usage calls it, if this can be told cheaply."""
    return value if len(value) < 40 and not is_uuid(value) else f"{value[:8]}…"


def is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


# The same as data


def as_json(request: HttpRequest) -> JsonResponse:
    """What the page shows, for programs. spend in USD (decimal text), times in milliseconds."""
    principal = principal_of(request)
    question = read(request.GET, principal)
    found = explore(question, principal)
    body = {
        "metric": question.metric,
        "unit": {"usd": "USD"}.get(question.unit, question.unit),
        "group": question.group,
        "subgroup": question.subgroup or None,
        "step": question.step,
        "from": question.asked.period.start.isoformat(),
        "to": question.asked.period.end.isoformat(),
        "time_zone": str(question.asked.period.zone),
        "steps": [at.isoformat() for at in found.steps],
        "total": plain(found.total, question.unit),
        "entries": [entry_json(entry, question.unit) for entry in found.entries],
    }
    response = JsonResponse(body)
    if "download" in request.GET:
        response["Content-Disposition"] = 'attachment; filename="usage.json"'
    return response


def entry_json(entry: Entry, unit: str) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "value": plain(entry.value, unit),
        "share": entry.share,
        "values": [plain(value, unit) for value in entry.values],
        "parts": [entry_json(part, unit) for part in entry.parts],
    }


def plain(value: float | None, unit: str) -> Any:
    return value if value is None or unit != "usd" else f"{prices.usd(round(value)):f}"


def as_csv(request: HttpRequest) -> HttpResponseBase:
    """Every figure behind the page, also those it sums up as Other: one row per step and group."""
    principal = principal_of(request)
    question = read(request.GET, principal)
    rows = summaries.each(
        question.asked.period, question.asked.filters(principal), question.metric, question.by, question.step
    )
    column = "spend_usd" if question.unit == "usd" else question.metric
    head = ["start", *[part for name in question.by for part in (f"{name}_id", name)], column]
    if question.unit == "usd":
        return csv_response("usage", head, ([*row[:-1], prices.usd(row[-1])] for row in rows))
    return csv_response("usage", head, rows)


# Saved views


@require_POST
def save_view(request: HttpRequest) -> HttpResponse:
    """Keep the state given as `query` under a name; the same name again replaces it."""
    name = " ".join(request.POST.get("name", "").split())[:100]
    question = read(QueryDict(request.POST.get("query", "")[:2000]), principal_of(request))
    back = HttpResponseRedirect(f"{reverse('admin:explorer')}?{question.query()}")
    mine = SavedView.objects.filter(user_id=str(request.user.pk))
    if not name:
        messages.error(request, "Give the view a name.")
    elif not mine.filter(name=name).exists() and mine.count() >= MOST_VIEWS:
        messages.error(request, f"There are {MOST_VIEWS} views already: delete one first.")
    else:
        mine.update_or_create(name=name, defaults={"user_id": str(request.user.pk), "query": question.query()})
        messages.success(request, f"Saved as “{name}”.")
    return back


@require_POST
def delete_view(request: HttpRequest, view_id: uuid.UUID) -> HttpResponse:
    deleted, _ = SavedView.objects.filter(pk=view_id, user_id=str(request.user.pk)).delete()
    if not deleted:
        raise Http404
    return HttpResponseRedirect(reverse("admin:explorer"))
