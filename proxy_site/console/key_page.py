"""One key, as its holder needs it: limits with what is left, spend, recent errors with reasons, how to use it, and
rotation. And the list of one's own keys."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone

from keys import policy
from keys.models import AuditEvent, VirtualKey
from keys.principal import Principal, principal_of
from lib.ids import first_uuid7
from proxy_site.console import budgets, issued, key_choice
from routing.models import PublicModel
from usage import figures, summaries
from usage.models import RequestRecord
from usage.summaries import Filters, Period

DAYS = 30
ERRORS_READ, ERRORS_SHOWN, REQUESTS_SHOWN, EVENTS_SHOWN = 200, 6, 10, 6
LOOK_BACK = timedelta(days=2)  # for recent errors: raw rows, by the key's own index

WORDS = {  # Google's status word: what its holder can do about it
    "RESOURCE_EXHAUSTED": "A limit was reached, here or at the provider: wait as long as the answer says, or ask for more.",
    "PERMISSION_DENIED": "The key may not do this: see its models, actions and networks.",
    "INVALID_ARGUMENT": "The request itself is wrong: the message names the field.",
    "NOT_FOUND": "No such model, or nobody serves it: see the models this key may use.",
    "FAILED_PRECONDITION": "Something must be set up first: the message says what.",
    "UNAVAILABLE": "No deployment could answer just then: a retry may help.",
    "DEADLINE_EXCEEDED": "The model did not answer in time: a shorter prompt or a stream may help.",
    "INTERNAL": "Something went wrong behind the gateway: tell your administrator the request id.",
    "CANCELLED": "The client hung up before the answer was complete.",
}


def mine(request: HttpRequest) -> HttpResponse:
    """The keys that are one's own."""
    owned = VirtualKey.objects.filter(owner=request.user.pk)
    rows = principal_of(request).scope(owned).select_related("organization", "team").prefetch_related("secrets")
    keys = list(rows.exclude(state=VirtualKey.State.REVOKED).order_by("name")[:100])
    now = timezone.now()
    filters = Filters(organizations=None, keys=[str(key.pk) for key in keys])
    spent = (
        {each.id: each for each in summaries.top_keys(Period(now - timedelta(days=DAYS), now), filters, limit=100)}
        if keys
        else {}
    )
    context = {
        **admin.site.each_context(request),
        "title": "My keys",
        "days": DAYS,
        "rows": [{"key": key, "usage": spent.get(str(key.pk)), "hint": hint(key)} for key in keys],
        "may_add": principal_of(request).may("add", VirtualKey),
    }
    return TemplateResponse(request, "gatehouse/my_keys.html", context)


def hint(key: VirtualKey) -> str:
    live = [secret.hint for secret in key.secrets.all() if secret.revoked_at is None]
    return live[0] if live else "no secret"


def page(request: HttpRequest, key_id: uuid.UUID) -> HttpResponse:
    key, principal = key_choice.own_or_seen(request, key_id), principal_of(request)
    now = timezone.now()
    period = Period(now - timedelta(days=DAYS), now)
    filters = Filters(organizations=None, keys=[str(key.pk)])
    totals = summaries.totals(period, filters)
    spend = summaries.series(period, filters, "spend", by="model", step="day", top=6)
    base = issued.base_url(request)
    records = RequestRecord.objects.filter(key_id=str(key.pk))
    context = {
        **admin.site.each_context(request),
        "title": f"Key {key.name}",
        "opts": VirtualKey._meta,
        "original": key,
        "key": key,
        "days": DAYS,
        "body_days": settings.GATEHOUSE.body_retention_days,
        "totals": totals,
        "success": figures.percent(totals.ok, totals.ok + totals.failed),
        "standings": budgets.standings_for(key),
        "secrets": key.secrets.order_by("-created_at")[:10],
        "today": summaries.totals(Period(now - timedelta(hours=24), now), filters),
        "rules": rules(key),
        "trail": trail(principal, key),
        "administers": key_choice.administers(principal, key),
        "errors": errors(records),
        "recent": records.filter(pk__gte=since(timedelta(days=DAYS))).order_by("-pk")[:REQUESTS_SHOWN],
        "charts": {
            "labels": [at.strftime("%d %b") for at in spend.steps],
            "spend": [{"label": line.name or "no model", "data": [(value or 0) / 1e9 for value in line.values]} for line in spend.lines],
        },
        "clients": issued.clients(base, issued.PLACEHOLDER, issued.model_for(key)),
        "may_change": principal.may("change", key),
        "may_add": principal.may("add", VirtualKey),
        "first_url": f"{reverse('admin:key_first', args=[key.pk])}?since={int(now.timestamp() * 1000)}",
        "requests": f"{reverse('admin:usage_requestrecord_changelist')}?range=30d&key={key.pk}",
    }  # fmt: skip
    return TemplateResponse(request, "gatehouse/key_page.html", context)


def rules(key: VirtualKey) -> list[tuple[str, str, list[str]]]:
    """What this key may do, in words: (label, words, things)."""
    names = models_of(key)
    allowed = [
        name
        for name in names
        if (key.allowed_models is None or any(policy.matches(each, name) for each in key.allowed_models))
        and not any(policy.matches(each, name) for each in key.denied_models)
    ]
    matched = f"{len(allowed)} of {len(names)} models"
    words = f"every model ({matched})" if key.allowed_models is None else matched if key.allowed_models else "no model"
    found = [
        ("Models", words, key.allowed_models or []),
        ("Denied", "", key.denied_models),
        ("Actions", "" if key.scopes else "all", key.scopes or []),
        ("From", "" if key.networks else "anywhere", key.networks or []),
        ("Tags", "", key.tags),
        ("Unknown fields", "a call is refused rather than sent without them" if key.strict_fields else "", []),
    ]
    return [(label, words, things) for label, words, things in found if words or things]


def models_of(key: VirtualKey) -> list[str]:
    """The names of the models this key's organization could ask for."""
    rows = PublicModel.objects.filter(Q(organization=None) | Q(organization=key.organization_id), enabled=True)
    return sorted(set(rows.values_list("name", flat=True)))


def trail(principal: Principal, key: VirtualKey) -> Sequence[AuditEvent]:
    """What was changed lately, for those who see the audit log."""
    if not principal.may("view", AuditEvent):
        return []
    return list(principal.scope(AuditEvent.objects.filter(target_id=str(key.pk))).order_by("-pk")[:EVENTS_SHOWN])


def since(span: timedelta) -> uuid.UUID:
    return first_uuid7(int((timezone.now() - span).timestamp() * 1000))


def errors(records: Any) -> list[dict[str, Any]]:
    """The latest calls that failed, those alike together, with what can be done about it."""
    found: dict[tuple[int, str, str, str], dict[str, Any]] = {}
    for row in records.filter(pk__gte=since(LOOK_BACK), http_status__gte=400).order_by("-pk")[:ERRORS_READ]:
        words = plain(row.error)
        kind = (row.http_status, row.status, row.model, words)
        alike = found.setdefault(kind, {"record": row, "words": words, "count": 0, "advice": WORDS.get(row.status, "")})
        alike["count"] += 1
    return list(found.values())[:ERRORS_SHOWN]


def plain(error: str) -> str:
    """Without what stands in brackets at its end, which is for operators."""
    return error.partition(" [")[0] if error.endswith("]") else error


def first(request: HttpRequest, key_id: uuid.UUID) -> JsonResponse:
    """?since=UNIX MS: the first call of this key since then, for "waiting for the first request"."""
    key = key_choice.own_or_seen(request, key_id)
    given = request.GET.get("since", "")
    at = int(given) if given.isascii() and given.isdigit() and len(given) < 15 else 0
    rows = RequestRecord.objects.filter(key_id=str(key.pk), pk__gte=first_uuid7(at))
    found = rows.order_by("pk").first()
    if found is None:
        return JsonResponse({"received": False})
    return JsonResponse(
        {
            "received": True,
            "ok": found.http_status < 400,
            "text": f"{found.http_status} {found.status}: {found.model} in {figures.duration(found.total_ms)}",
            "url": reverse("admin:usage_requestrecord_change", args=[found.pk]),
        }
    )
