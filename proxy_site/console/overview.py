"""The first page: what was spent, asked, answered and how fast, for what this person may see. Reads roll-ups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from keys.models import AuditEvent, VirtualKey
from keys.principal import Principal, principal_of
from routing.models import Connection, Deployment
from usage import figures, summaries
from usage.models import RequestRecord
from usage.summaries import Filters, Overview, Period, Step


@dataclass(frozen=True, slots=True)
class Range:
    """A span, the step it is charted by, and how a step is written."""

    name: str
    span: timedelta
    step: Step
    label: str


RANGES = {
    each.name: each
    for each in (
        Range("1h", timedelta(hours=1), "minute", "%H:%M"),
        Range("24h", timedelta(hours=24), "hour", "%H:%M"),
        Range("7d", timedelta(days=7), "day", "%a %d"),
        Range("30d", timedelta(days=30), "day", "%d %b"),
    )
}


def page(request: HttpRequest, context: dict[str, Any]) -> TemplateResponse:
    principal = principal_of(request)
    chosen = RANGES.get(request.GET.get("range", ""), RANGES["7d"])
    now = timezone.now()
    period, filters = Period(now - chosen.span, now), seen_by(principal)
    overview = summaries.overview(period, filters)
    context |= {
        "title": "Overview",
        "range": chosen.name,
        "ranges": list(RANGES),
        "cards": cards(overview, principal, chosen.name),
        "charts": charts(period, filters, chosen),
        "top_keys": top_keys(period, filters),
        "errors": summaries.recent_errors(period, filters, limit=6),
        "deployments": deployments(period, filters, principal),
        "steps": first_steps(principal, called=bool(overview.now.requests)),
    }
    return TemplateResponse(request, "gatehouse/overview.html", context)


def seen_by(principal: Principal) -> Filters:
    """The usage this person may see, as a restriction on roll-ups."""
    return Filters(organizations=None, within=principal.condition("usage.usagebucket"))


def cards(overview: Overview, principal: Principal, range_name: str) -> list[dict[str, str]]:
    """Every card leads to the requests behind it."""
    now = overview.now
    requests = f"{reverse('admin:usage_requestrecord_changelist')}?range={range_name}"
    keys = principal.scope(VirtualKey.objects.filter(state=VirtualKey.State.ACTIVE)).count()
    unpriced = f"{figures.compact(now.unpriced)} calls without a price" if now.unpriced else change(overview, "spend")
    tokens = f"{figures.compact(now.input_tokens)} in, {figures.compact(now.output_tokens)} out"
    cached = figures.percent(now.cached_tokens, now.input_tokens)
    return [
        card("Spend", figures.dollars(now.spend), requests, unpriced, unit="USD"),
        card("Requests", figures.compact(now.requests), requests, change(overview, "requests")),
        card("Tokens", figures.compact(now.input_tokens + now.output_tokens), requests, f"{tokens}; {cached} cached"),
        card(
            "Success",
            figures.percent(now.ok, now.ok + now.failed),
            f"{requests}&outcome=server",
            f"{figures.compact(now.rate_limited)} rate limited, not counted",
        ),
        card(
            "First token",
            figures.duration(now.ttft_p50),
            requests,
            f"p95 {figures.duration(now.ttft_p95)}",
            unit="p50",
        ),
        card(
            "Keys used",
            figures.compact(now.active_keys),
            reverse("admin:keys_virtualkey_changelist"),
            f"of {figures.compact(keys)} active",
        ),
    ]


def card(label: str, figure: str, link: str, note: str, *, unit: str = "") -> dict[str, str]:
    return {"label": label, "figure": figure, "unit": unit, "note": note, "link": link}


def change(overview: Overview, name: str) -> str:
    """Against the period before, in words."""
    grown = overview.change(name)
    if grown is None:
        return "nothing in the period before"
    return f"{grown:+.0%} against the period before" if abs(grown) < 10 else "over ten times the period before"


def charts(period: Period, filters: Filters, chosen: Range) -> dict[str, Any]:
    """Labels, and three charts whose lists are as long as the labels."""
    spend = summaries.series(period, filters, "spend", by="model", step=chosen.step, top=6)
    outcomes = summaries.outcomes(period, filters, chosen.step)
    return {
        "labels": [at.strftime(chosen.label) for at in spend.steps],
        "spend": [
            {"label": line.name or "no model", "data": [(value or 0) / 1e9 for value in line.values]}
            for line in spend.lines
        ],
        "requests": [
            {"label": "Success", "data": outcomes.ok},
            {"label": "Rate limited", "data": outcomes.rate_limited},
            {"label": "Error", "data": outcomes.failed},
            {"label": "Client left", "data": outcomes.cancelled},
        ],
        "ttft": [{"label": "p50", "data": outcomes.ttft_p50}, {"label": "p95", "data": outcomes.ttft_p95}],
    }


def top_keys(period: Period, filters: Filters) -> list[dict[str, Any]]:
    rows = summaries.top_keys(period, filters, limit=8)
    most = max((row.spend for row in rows), default=0) or 1
    return [{"row": row, "share": round(100 * row.spend / most)} for row in rows]


def deployments(period: Period, filters: Filters, principal: Principal) -> list[dict[str, Any]]:
    """Those this person manages: busy ones first, then those nobody called."""
    used = {row.id: row for row in summaries.deployments(period, filters)}
    rows = principal.scope(Deployment.objects.select_related("model", "connection"))[:200]
    found = [
        {"row": row, "usage": used.get(str(row.pk)), "state": state_of(row, used.get(str(row.pk)))} for row in rows
    ]
    found.sort(key=lambda each: -(each["usage"].requests if each["usage"] else 0))  # type: ignore[union-attr]  # just made
    return found[:8]


def state_of(row: Deployment, used: summaries.DeploymentUsage | None) -> str:
    if not (row.enabled and row.connection.enabled and row.model.enabled):
        return "off"
    if used is None:
        return "idle"
    return "bad" if (used.error_rate or 0) > 0.5 else "late" if (used.error_rate or 0) > 0.05 else "ok"


def first_steps(principal: Principal, *, called: bool) -> list[dict[str, Any]]:
    """What is still to do before the first call; empty once somebody has called."""
    keys = principal.scope(VirtualKey.objects.all()).exists()
    if called or principal.scope(RequestRecord.objects.all()).exists():
        return []
    found = [
        step("Create a key", "Three fields; its secret is shown once.", keys, "admin:keys_virtualkey_add"),
        step(
            "Send a request", "With the snippet beside the new secret.", False, "admin:usage_requestrecord_changelist"
        ),
    ]
    if principal.is_platform_admin:
        connection, deployment = Connection.objects.first(), Deployment.objects.first()
        tested = AuditEvent.objects.filter(action="connection.tested").exists()
        found = [
            step(
                "Add a connection",
                "Your account at a provider.",
                connection is not None,
                "admin:routing_connection_add",
            ),
            step("Test it", "One call of one token, from its page.", tested, "admin:routing_connection_changelist"),
            step(
                "Add a model",
                "The name clients ask for, and who answers.",
                deployment is not None,
                "admin:routing_publicmodel_add",
            ),
            *found,
        ]
    return found


def step(label: str, text: str, done: bool, url: str) -> dict[str, Any]:
    return {"label": label, "text": text, "done": done, "link": reverse(url)}
