"""Deployment health: how every deployment is right now, and the switches for it. Shown live by routing.explain."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from keys import audit, notices
from keys.principal import principal_of
from keys.scoped_admin import actor_of
from routing import explain, loading
from routing.explain import SPANS, Health
from routing.models import Deployment
from usage import summaries
from usage.summaries import Filters, Hour, Period

MOST = 300
STATES = {  # state: (what people read, colour)
    "closed": ("Healthy", "gh-ok"),
    "degraded": ("Degraded", "gh-late"),
    "cooling": ("Cooling down", "gh-late"),
    "open": ("Out", "gh-failed"),
    "half_open": ("On probation", "gh-late"),
    "held": ("Held back", "gh-failed"),
    "draining": ("Draining", ""),
    "disabled": ("Disabled", ""),
    "unusable": ("Cannot be used", "gh-failed"),
}
WORST_FIRST = ("open", "unusable", "cooling", "held", "half_open", "degraded", "closed", "draining", "disabled")
DEGRADED = 0.05  # of the calls of the last five minutes failed
BAD = 0.5  # of an hour's calls


@dataclass(frozen=True, slots=True)
class Shown:
    """One deployment on the page. why: what keeps it out, when it is not the breaker."""

    row: Deployment
    state: str
    why: str
    health: Health | None
    hours: list[Hour] = field(default_factory=list)

    @property
    def blocks(self) -> list[dict[str, str]]:
        """The last day, an hour a block: colour, words, and where its requests are."""
        return [block(each, str(self.row.pk)) for each in self.hours]

    @property
    def label(self) -> str:
        return STATES[self.state][0]

    @property
    def colour(self) -> str:
        return STATES[self.state][1]

    @property
    def blocked(self) -> bool:
        return self.health is not None and self.health.state not in ("closed", "draining")

    @property
    def errors(self) -> list[tuple[str, int, float | None, str]]:
        """(span, calls, error rate, errors by kind in words)."""
        if self.health is None:
            return []
        return [self.from_rollups(spanned(self.health, span)) for span in SPANS]

    def from_rollups(self, told: tuple[str, int, float | None, str]) -> tuple[str, int, float | None, str]:
        """A day is longer than a process may have lived: what the roll-ups know of it, when that is more."""
        calls, failed = (
            sum(each.requests for each in self.hours),
            sum(each.failed + each.rate_limited for each in self.hours),
        )
        return ("24h", calls, failed / calls, told[3]) if told[0] == "24h" and calls > told[1] else told

    @property
    def failed_at(self) -> datetime | None:
        failure = self.health.last_failure if self.health else None
        return datetime.fromtimestamp(failure.at, UTC) if failure else None

    @property
    def share_width(self) -> int:
        return round(100 * self.health.share) if self.health else 0

    @property
    def meant_at(self) -> int:
        return round(100 * self.health.meant) if self.health else 0


def spanned(health: Health, span: str) -> tuple[str, int, float | None, str]:
    calls, kinds = health.calls[span], health.errors[span]
    rate = sum(kinds.values()) / calls if calls else None
    return span, calls, rate, ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())


def block(hour: Hour, deployment_id: str) -> dict[str, str]:
    bad = (hour.failed + hour.rate_limited) / hour.requests if hour.requests else 0.0
    colour = "" if not hour.requests else "gh-ok" if bad <= DEGRADED else "gh-late" if bad <= BAD else "gh-failed"
    end = hour.start + timedelta(hours=1)
    told = (
        f"{hour.requests:,} calls, {hour.failed} failed, {hour.rate_limited} rate limited"
        if hour.requests
        else "no call"
    )
    query = urlencode({"deployment": deployment_id, "from": hour.start.isoformat(), "to": end.isoformat()})
    return {
        "colour": colour,
        "words": f"{hour.start:%H:%M} to {end:%H:%M} UTC: {told}",
        "link": f"{reverse('admin:usage_requestrecord_changelist')}?{query}",
    }


def page(request: HttpRequest) -> HttpResponse:
    """Also the page's own refresh: `?part=1` is the list alone."""
    principal = principal_of(request)
    if not principal.may("view", Deployment):
        raise PermissionDenied("Deployments are shown to admins.")
    wanted = request.GET.get("model", "")
    day = last_day(Filters(organizations=None, within=principal.condition("usage.usagebucket")))
    shown = everything(principal.scope(Deployment.objects.select_related("model", "connection")), day)
    context = {
        "shown": [each for each in shown if not wanted or each.row.model.name == wanted],
        "models": sorted({each.row.model.name for each in shown}),
        "model": wanted,
        "counts": counts(shown),
    }
    if "part" in request.GET:
        return TemplateResponse(request, "gatehouse/health_list.html", context)
    context |= {**admin.site.each_context(request), "title": "Deployment health"}
    return TemplateResponse(request, "gatehouse/health.html", context)


def last_day(filters: Filters) -> dict[str, list[Hour]]:
    """The hour under way and the twenty-three before it."""
    now = timezone.now()
    start = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
    return summaries.hours(Period(start, now), filters)


def everything(rows: Any, day: dict[str, list[Hour]]) -> list[Shown]:
    """The worst first, then by model."""
    catalog = loading.current()
    states = explain.states(catalog)
    found = [
        replace(
            shown(row, states.get(str(row.pk)), catalog.unusable.get(str(row.pk), "")),
            hours=day.get(str(row.pk), []),
        )
        for row in rows[:MOST]
    ]
    found.sort(key=lambda each: (WORST_FIRST.index(each.state), each.row.model.name, each.row.priority))
    return found


def shown(row: Deployment, health: Health | None, why: str) -> Shown:
    if not (row.enabled and row.connection.enabled and row.model.enabled):
        off = "It" if not row.enabled else "Its connection" if not row.connection.enabled else "Its model"
        return Shown(row, "disabled", f"{off} is disabled.", None)
    if health is None:
        return Shown(row, "unusable", why or "The gateway has not read it yet.", None)
    if health.state == "closed" and health.calls["5m"] >= 5:
        failed = sum(health.errors["5m"].values())
        if failed / health.calls["5m"] > DEGRADED:
            return Shown(row, "degraded", "", health)
    return Shown(row, health.state, "", health)


def counts(found: list[Shown]) -> list[tuple[str, str, int]]:
    """(label, colour, how many) of every state there is."""
    tally: dict[str, int] = {}
    for each in found:
        tally[each.state] = tally.get(each.state, 0) + 1
    return [(STATES[state][0], STATES[state][1], tally[state]) for state in WORST_FIRST if state in tally]


# Switches


@require_POST
def switch(request: HttpRequest, deployment_id: uuid.UUID, what: str) -> HttpResponse:
    """reset: end a cool-down. drain, undrain: no new calls, or calls again. enable, disable."""
    rows = Deployment.objects.select_related("model", "connection")
    principal = principal_of(request)
    row = principal.scope(rows.filter(pk=deployment_id)).first() if what in DONE else None
    if row is None or not principal.may("change", row):
        raise Http404
    if what == "reset":
        explain.reset(str(row.pk))
        audit.record(actor_of(request), "deployment.reset", row, {}, row.model.organization_id)
    else:
        set_field(request, row, *FIELDS[what])
    messages.success(request, f"{row}: {DONE[what]}.")
    return HttpResponseRedirect(reverse("admin:health"))


FIELDS = {
    "drain": ("draining", True),
    "undrain": ("draining", False),
    "enable": ("enabled", True),
    "disable": ("enabled", False),
}
DONE = {
    "reset": "the cool-down is over",
    "drain": "draining; calls under way are finished, new ones go elsewhere",
    "undrain": "takes calls again",
    "enable": "enabled",
    "disable": "disabled",
}


def set_field(request: HttpRequest, row: Deployment, field: str, value: bool) -> None:
    before = getattr(row, field)
    if before == value:
        return
    setattr(row, field, value)
    row.save(update_fields=[field])
    audit.record(actor_of(request), "deployment.changed", row, {field: [before, value]}, row.model.organization_id)
    notices.announce("catalog")
