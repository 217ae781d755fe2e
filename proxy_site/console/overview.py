"""The first page: what was spent, asked, answered and how fast, for what this person may see. Reads roll-ups."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import QuerySet, Sum
from django.db.models.functions import TruncHour, TruncMinute
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from keys.models import VirtualKey
from keys.principal import Principal, principal_of
from lib.ids import first_uuid7
from routing.models import Connection, Deployment
from usage import figures, histogram
from usage.models import RequestRecord, UsageBucket

MODELS_SHOWN = 6
OUTCOMES = {"OK": "Success", "RESOURCE_EXHAUSTED": "Rate limited", "CANCELLED": "Client left"}


@dataclass(frozen=True, slots=True)
class Range:
    """A span and how it is cut: width of the roll-ups read, step of the chart's bars."""

    name: str
    span: timedelta
    width: int
    step: timedelta
    label: str

    def starts(self, now: datetime) -> list[datetime]:
        """The beginning of every bar, the last one still growing."""
        size = int(self.step.total_seconds())
        last = int(now.timestamp()) // size * size
        return [datetime.fromtimestamp(last - size * back, UTC) for back in reversed(range(int(self.span / self.step)))]


RANGES = {
    each.name: each
    for each in (
        Range("1h", timedelta(hours=1), 60, timedelta(minutes=2), "%H:%M"),
        Range("24h", timedelta(hours=24), 900, timedelta(hours=1), "%H:%M"),
        Range("7d", timedelta(days=7), 900, timedelta(hours=6), "%a %H:%M"),
        Range("30d", timedelta(days=30), 900, timedelta(days=1), "%d %b"),
    )
}


def page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    principal = principal_of(request)
    chosen = RANGES.get(request.GET.get("range", ""), RANGES["7d"])
    starts = chosen.starts(timezone.now())
    buckets = principal.scope(UsageBucket.objects.filter(width=chosen.width, start__gte=starts[0]))
    totals = totals_of(buckets)
    context |= {
        "title": "Overview",
        "range": chosen.name,
        "ranges": list(RANGES),
        "cards": cards(totals, merged(buckets), principal, chosen.name),
        "charts": {
            "labels": [start.strftime(chosen.label) for start in starts],
            "spend": spend(buckets, chosen, starts),
            "requests": outcomes(buckets, chosen, starts),
            "ttft": first_tokens(buckets, chosen, starts),
        },
        "top_keys": top_keys(buckets),
        "errors": recent_errors(principal),
        "deployments": deployments(principal, buckets),
        "steps": steps(principal, bool(totals["requests"])),
        "quiet": not totals["requests"],
    }
    return TemplateResponse(request, "gatehouse/overview.html", context)


# Cards


def totals_of(buckets: QuerySet[UsageBucket]) -> dict[str, int]:
    names = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "thoughts_tokens", "cost_nano", "unpriced")
    found = buckets.aggregate(**{name: Sum(name) for name in names})
    by_status = dict(buckets.values_list("status").annotate(Sum("requests")))
    limited, cancelled = by_status.get("RESOURCE_EXHAUSTED", 0), by_status.get("CANCELLED", 0)
    return {name: found[name] or 0 for name in names} | {
        "ok": by_status.get("OK", 0),
        "limited": limited,
        "judged": sum(by_status.values()) - limited - cancelled,
    }


def merged(buckets: QuerySet[UsageBucket]) -> list[int]:
    return histogram.merge(buckets.filter(ttft_count__gt=0).values_list("ttft_histogram", flat=True).iterator())


def cards(totals: dict[str, int], ttft: list[int], principal: Principal, name: str) -> list[dict[str, str]]:
    """Every card leads to the requests behind it."""
    requests = f"{reverse('admin:usage_requestrecord_changelist')}?range={name}"
    keys = principal.scope(VirtualKey.objects.filter(state=VirtualKey.State.ACTIVE)).count()
    tokens = totals["prompt_tokens"] + totals["output_tokens"] + totals["thoughts_tokens"]
    unpriced = f"{figures.compact(totals['unpriced'])} without a price" if totals["unpriced"] else "every call priced"
    cached = figures.percent(totals["cached_tokens"], totals["prompt_tokens"])
    return [
        {
            "label": "Spend",
            "figure": figures.dollars(totals["cost_nano"]),
            "unit": "USD",
            "note": unpriced,
            "link": requests,
        },
        {
            "label": "Requests",
            "figure": figures.compact(totals["requests"]),
            "unit": "",
            "note": f"{figures.compact(keys)} active keys",
            "link": requests,
        },
        {
            "label": "Tokens",
            "figure": figures.compact(tokens),
            "unit": "",
            "note": f"{figures.compact(totals['prompt_tokens'])} in ({cached} cached), "
            f"{figures.compact(totals['output_tokens'] + totals['thoughts_tokens'])} out",
            "link": requests,
        },
        {
            "label": "Success",
            "figure": figures.percent(totals["ok"], totals["judged"]),
            "unit": "",
            "note": f"{figures.compact(totals['limited'])} rate limited, not counted",
            "link": f"{requests}&outcome=server",
        },
        {
            "label": "First token",
            "figure": figures.duration(histogram.percentile(ttft, 0.5)),
            "unit": "p50",
            "note": f"p95 {figures.duration(histogram.percentile(ttft, 0.95))}",
            "link": requests,
        },
    ]


# Charts: lists as long as `starts`


def moments(buckets: QuerySet[UsageBucket], chosen: Range) -> QuerySet[UsageBucket]:
    trunc = TruncMinute if chosen.step < timedelta(hours=1) else TruncHour
    return buckets.annotate(moment=trunc("start", tzinfo=UTC))


def place(moment: datetime, chosen: Range, starts: list[datetime]) -> int:
    return min(max(int((moment - starts[0]) / chosen.step), 0), len(starts) - 1)


def spend(buckets: QuerySet[UsageBucket], chosen: Range, starts: list[datetime]) -> list[dict[str, Any]]:
    """USD by model; beyond the first few models: "Other"."""
    rows = list(moments(buckets, chosen).values_list("moment", "model").annotate(Sum("cost_nano")).order_by())
    totals: Counter[str] = Counter()
    for _moment, model, cost in rows:
        totals[model] += cost or 0
    shown = [model for model, _cost in totals.most_common(MODELS_SHOWN)]
    series: dict[str, list[float]] = {model: [0.0] * len(starts) for model in shown}
    for moment, model, cost in rows:
        line = series.setdefault(model if model in shown else "Other", [0.0] * len(starts))
        line[place(moment, chosen, starts)] += (cost or 0) / 1e9
    return [{"label": model or "unknown", "data": data} for model, data in series.items()]


def outcomes(buckets: QuerySet[UsageBucket], chosen: Range, starts: list[datetime]) -> list[dict[str, Any]]:
    series = {name: [0] * len(starts) for name in ("Success", "Rate limited", "Error", "Client left")}
    rows = moments(buckets, chosen).values_list("moment", "status").annotate(Sum("requests")).order_by()
    for moment, status, count in rows:
        series[OUTCOMES.get(status, "Error")][place(moment, chosen, starts)] += count
    return [{"label": name, "data": data} for name, data in series.items()]


def first_tokens(buckets: QuerySet[UsageBucket], chosen: Range, starts: list[datetime]) -> list[dict[str, Any]]:
    merged_counts: dict[int, list[int]] = defaultdict(histogram.empty)
    rows = buckets.filter(ttft_count__gt=0).values_list("start", "ttft_histogram")
    for start, counts in rows.iterator():
        at = place(start, chosen, starts)
        merged_counts[at] = histogram.merge((merged_counts[at], counts))
    return [
        {
            "label": label,
            "data": [
                histogram.percentile(merged_counts[at], share) if at in merged_counts else None
                for at in range(len(starts))
            ],
        }
        for label, share in (("p50", 0.5), ("p95", 0.95))
    ]


# Tables


def top_keys(buckets: QuerySet[UsageBucket]) -> list[dict[str, Any]]:
    rows = (
        buckets.values("key_id", "key")
        .annotate(spend=Sum("cost_nano"), asked=Sum("requests"))
        .order_by("-spend", "-asked")
    )
    found = list(rows[:8])
    most = max((row["spend"] for row in found), default=0) or 1
    return [row | {"share": round(100 * row["spend"] / most)} for row in found]


def recent_errors(principal: Principal) -> list[dict[str, Any]]:
    """The last day's failures, grouped by what they said."""
    since = first_uuid7(int((timezone.now() - timedelta(days=1)).timestamp() * 1000))
    records = principal.scope(
        RequestRecord.objects.filter(pk__gte=since, http_status__gte=400).exclude(http_status=499)
    )
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    for record in records.order_by("-pk").only("pk", "http_status", "status", "error", "model", "started_at")[:200]:
        group = groups.setdefault(
            (record.http_status, record.error[:160]),
            {"record": record, "message": record.error[:160] or record.status, "count": 0},
        )
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: -group["count"])[:6]


def deployments(principal: Principal, buckets: QuerySet[UsageBucket]) -> list[dict[str, Any]]:
    rows = list(principal.scope(Deployment.objects.select_related("model", "connection"))[:30])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for deployment_id, status, count in (
        buckets.values_list("deployment_id", "status").annotate(Sum("requests")).order_by()
    ):
        counts[deployment_id][OUTCOMES.get(status, "Error")] += count
    found = []
    for row in rows:
        mine = counts[str(row.pk)]
        asked = sum(mine.values())
        failed = mine["Error"]
        state = (
            "off" if not (row.enabled and row.connection.enabled) else "bad" if asked and failed * 2 > asked else "ok"
        )
        found.append({"row": row, "asked": asked, "failed": figures.percent(failed, asked), "state": state})
    return sorted(found, key=lambda each: -each["asked"])[:8]


# First steps


def steps(principal: Principal, called: bool) -> list[dict[str, Any]]:
    """What is still to do before the first call; empty once all is done."""
    has_key = principal.scope(VirtualKey.objects.all()).exists()
    first = {
        "label": "Create a key",
        "text": "Three fields; its secret is shown once.",
        "done": has_key,
        "link": reverse("admin:keys_virtualkey_add"),
    }
    last = {
        "label": "Send a request",
        "text": "With the snippet beside the new secret.",
        "done": called,
        "link": reverse("admin:usage_requestrecord_changelist"),
    }
    found = [first, last]
    if principal.is_platform_admin:
        connected, deployed = Connection.objects.exists(), Deployment.objects.exists()
        tested = Connection.objects.exclude(sealed_credential="").exists()
        found = [
            {
                "label": "Add a connection",
                "text": "Your account at a provider.",
                "done": connected,
                "link": reverse("admin:routing_connection_add"),
            },
            {
                "label": "Test it",
                "text": "One token, from the connection's page.",
                "done": tested and deployed,
                "link": reverse("admin:routing_connection_changelist"),
            },
            {
                "label": "Add a model",
                "text": "The name clients ask for, and who answers.",
                "done": deployed,
                "link": reverse("admin:routing_publicmodel_add"),
            },
            *found,
        ]
    return [] if all(step["done"] for step in found) else found
