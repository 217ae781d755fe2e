"""The first page: what was spent, asked, answered and how fast, for what this person may see. Reads roll-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from keys.models import AuditEvent, Limit, Organization, VirtualKey
from keys.principal import Principal, principal_of
from proxy_site.console import asked, budgets, key_choice, key_page
from proxy_site.console.asked import Asked
from proxy_site.console.explorer import STEP_LABELS
from routing.models import Connection, Deployment
from usage import figures, summaries
from usage.admin import choices_of
from usage.models import LimitEvent, RequestRecord
from usage.summaries import Filters, KeyUsage, Overview, Period, Step

SPLITS = {"model": "model", "team": "team", "key": "key", "deployment": "deployment"}  # of the spend chart
BEFORE = {"1h": "the hour before", "24h": "the day before", "7d": "the 7 days before", "30d": "the 30 days before"}
REFRESHES = [("", "off"), ("10", "10 s"), ("60", "60 s")]
LATEST = 1000  # calls whose words are read for the table of errors
MOST_LIMITS, SHOWN = 100, 6
TOP_KEYS = 8


def page(request: HttpRequest, context: dict[str, Any]) -> TemplateResponse:
    principal = principal_of(request)
    found = asked.read(request.GET, asked.zone_of(principal))
    filters, split = found.filters(principal), request.GET.get("split", "")
    split = split if split in SPLITS else "model"
    refresh = request.GET.get("refresh", "") if request.GET.get("refresh") in dict(REFRESHES) else ""
    state = {"split": "" if split == "model" else split, "refresh": refresh}
    overview = summaries.overview(found.period, filters, top=TOP_KEYS)
    sees_deployments = principal.may("view", Deployment)
    context |= {
        "title": "Overview",
        "asked": found,
        "zone": str(found.period.zone),
        "ranges": [
            (name, asked.RANGE_LABELS.get(name, name), found.query(range=name, first="", last="", **state))
            for name in asked.RANGES
            if name != "custom"
        ],
        "splits": [(name, found.query(**{**state, "split": name})) for name in SPLITS],
        "split": split,
        "refresh": refresh,
        "refreshes": REFRESHES,
        "chips": [
            {"label": name.capitalize(), "text": value, "without": found.query(**{**state, name: ""})}
            for name, value in found.values.items()
            if name not in ("organization", "team", "model")
        ],
        "choices": choices_of(principal),
        "cards": cards(overview, principal, found),
        "called": bool(overview.now.requests),
        "charts": charts(found, filters, split),
        "explorer": f"{reverse('admin:explorer')}?{found.query(group=split)}",
        "top_keys": top_keys(found, overview.keys),
        "errors": errors(found, filters, principal),
        "deployments": deployments(found, filters, principal) if sees_deployments else [],
        "sees_deployments": sees_deployments,
        "budgets": near(principal),
        "steps": first_steps(principal, called=bool(overview.now.requests)),
    }
    return TemplateResponse(request, "gatehouse/overview.html", context)


def cards(overview: Overview, principal: Principal, found: Asked) -> list[dict[str, str]]:
    """Every card leads to the requests behind it."""
    now, requests = overview.now, found.requests()
    keys = principal.scope(VirtualKey.objects.filter(state=VirtualKey.State.ACTIVE)).count()
    unpriced = f"{figures.compact(now.unpriced)} calls without a price" if now.unpriced else ""
    tokens = f"{figures.compact(now.input_tokens)} in, {figures.compact(now.output_tokens)} out"
    cached = figures.percent(now.cached_tokens, now.input_tokens)
    return [
        card("Spend", figures.dollars(now.spend), requests, unpriced or change(overview, "spend", found), unit="USD"),
        card("Requests", figures.compact(now.requests), requests, change(overview, "requests", found)),
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


def change(overview: Overview, name: str, found: Asked) -> str:
    """Against the period before, in words."""
    before = BEFORE.get(found.range, "as long before")
    grown = overview.change(name)
    if grown is None:
        return f"nothing in {before}" if found.range in BEFORE else ""
    if abs(grown) >= 10:
        return f"over ten times {before}"
    return f"{'↑' if grown > 0 else '↓'} {abs(grown):.0%} on {before}".replace("%", " %")


def charts(found: Asked, filters: Filters, split: str) -> dict[str, Any]:
    """Labels, three charts whose lists are as long as the labels, and where a click on each step leads."""
    step = asked.step_for(found.period, "")
    period = whole(found.period, step)
    spend = summaries.series(period, filters, "spend", by=split, step=step, top=6)
    outcomes = summaries.outcomes(period, filters, step)
    ends = [summaries.following(at, step) for at in spend.steps]
    return {
        "labels": [at.strftime(STEP_LABELS[step]) for at in spend.steps],
        "links": [found.requests(at, end) for at, end in zip(spend.steps, ends, strict=True)],
        "spend": [
            {"label": line.name or f"no {split}", "data": [(value or 0) / 1e9 for value in line.values]}
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


def whole(period: Period, step: Step) -> Period:
    """Without the part of a step it begins with, which would look like a slump."""
    steps = period.steps(step)
    cut = steps[0] < period.start and len(steps) > 2
    return Period(steps[1] if cut else period.start, period.end, period.zone)


def top_keys(found: Asked, rows: Sequence[KeyUsage]) -> list[dict[str, Any]]:
    """With the budget that is closest to its end, of those the key has itself."""
    known = {row.id: key_id for row in rows if (key_id := key_choice.parsed(row.id))}
    own = Limit.objects.filter(key__in=known.values(), metric=Limit.Metric.SPEND)
    spent = {each.id: each for each in budgets.standings(own)} if rows else {}
    closest: dict[str, budgets.Standing] = {}
    for limit_id, key_id in own.values_list("pk", "key_id"):
        standing = spent.get(str(limit_id))
        if standing and (str(key_id) not in closest or standing.percent > closest[str(key_id)].percent):
            closest[str(key_id)] = standing
    return [
        {
            "row": row,
            "page": reverse("admin:key_page", args=[row.id]) if row.id in known else "",
            "budget": closest.get(row.id),
            "requests": found.requests(more={"key": row.id}),
        }
        for row in rows
    ]


def near(principal: Principal) -> list[budgets.Standing]:
    """Budgets and limits of whole periods that are nearly or fully used, the closest first."""
    if not principal.may("view", Limit):
        return []
    told = principal.scope(LimitEvent.objects.order_by("-id")).values_list("limit_id", flat=True)[:MOST_LIMITS]
    rows = principal.scope(Limit.objects.filter(pk__in=set(told)))
    found = [each for each in budgets.standings(rows) if each.percent >= budgets.CLOSE and each.resets]
    return sorted(found, key=lambda each: -each.percent)[:SHOWN]


def errors(found: Asked, filters: Filters, principal: Principal) -> list[dict[str, Any]]:
    """What failed, the most frequent first, with the words of the latest where it is among the latest calls."""
    groups = summaries.recent_errors(found.period, filters, limit=SHOWN)
    words = latest_words(principal) if groups else {}
    return [
        {
            "group": each,
            "words": words.get((each.status, each.model, each.deployment_id), ""),
            "requests": found.requests(
                more={"status": each.status, "model": each.model, "deployment": each.deployment_id}
            ),
        }
        for each in groups
    ]


def latest_words(principal: Principal) -> dict[tuple[str, str, str], str]:
    """(status, model, deployment id): what the latest call that ended so was told."""
    latest = principal.scope(RequestRecord.objects.order_by("-pk"))
    found: dict[tuple[str, str, str], str] = {}
    for http_status, error, *group in latest.values_list("http_status", "error", "status", "model", "deployment_id")[
        :LATEST
    ]:
        if error and http_status >= 400:
            found.setdefault((group[0], group[1], group[2]), error)
    return {group: key_page.plain(error) for group, error in found.items()}


def deployments(found: Asked, filters: Filters, principal: Principal) -> list[dict[str, Any]]:
    """Those this person manages: busy ones first, then those nobody called."""
    used = {row.id: row for row in summaries.deployments(found.period, filters)}
    rows = principal.scope(Deployment.objects.select_related("model", "connection"))[:200]
    listed: Sequence[dict[str, Any]] = [
        {
            "row": row,
            "usage": used.get(str(row.pk)),
            "state": state_of(row, used.get(str(row.pk))),
            "requests": found.requests(more={"deployment": str(row.pk)}),
        }
        for row in rows
    ]
    return sorted(listed, key=lambda each: -(each["usage"].requests if each["usage"] else 0))[:8]


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
            step(
                "Make an organization",
                "Whose keys, limits and bill it is.",
                Organization.objects.exists(),
                "admin:keys_organization_add",
            ),
            *found,
        ]
    return found


def step(label: str, text: str, done: bool, url: str) -> dict[str, Any]:
    return {"label": label, "text": text, "done": done, "link": reverse(url)}
