"""Budgets and limits: what each allows, what is used and held of it, when it begins anew, and which were reached."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from asgiref.sync import async_to_sync
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse

from keys import limits, reading
from keys.context import LimitRule
from keys.limits import windows
from keys.models import Limit, Organization, VirtualKey
from keys.principal import Principal, principal_of
from lib.store import StoreDown
from proxy_site.console import limit_words
from usage.models import LimitEvent

MOST = 500
EVENTS = 20
CLOSE = 80  # percent
STATES = [("", "All"), ("close", "80 % and more"), ("reached", "Reached")]


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit now. used, held: in the limit's unit, None when the counters cannot be read. link: its subject."""

    id: str
    rule: LimitRule
    subject: str
    subject_kind: str
    organization: str
    link: str
    used: int | None
    held: int
    resets: datetime | None

    @property
    def words(self) -> str:
        return limit_words.words(self.rule)

    @property
    def used_words(self) -> str:
        return "–" if self.used is None else limit_words.amount(self.rule.metric, self.used)

    @property
    def held_words(self) -> str:
        return limit_words.amount(self.rule.metric, self.held) if self.held else ""

    @property
    def left_words(self) -> str:
        left = max(self.rule.amount - (self.used or 0) - self.held, 0)
        return "–" if self.used is None else limit_words.amount(self.rule.metric, left)

    @property
    def percent(self) -> int:
        """Used and held, of the amount. A limit of nothing is always reached."""
        if not self.rule.amount:
            return 100
        return round(100 * ((self.used or 0) + self.held) / self.rule.amount)

    @property
    def used_width(self) -> float:
        return min(100.0, 100 * (self.used or 0) / self.rule.amount) if self.rule.amount else 100.0

    @property
    def held_width(self) -> float:
        return min(100 - self.used_width, 100 * self.held / self.rule.amount) if self.rule.amount else 0.0

    @property
    def colour(self) -> str:
        return "gh-failed" if self.percent >= 100 else "gh-late" if self.percent >= CLOSE else ""

    @property
    def slides(self) -> str:
        """For limits that begin anew at no moment."""
        if self.rule.metric == "concurrent":
            return "as calls end"
        return {"minute": "slides", "hour": "slides", "lifetime": "never"}.get(self.rule.period, "")


def page(request: HttpRequest) -> HttpResponse:
    """`?part=1` is the list alone: the page refreshes itself."""
    principal = principal_of(request)
    if not principal.may("view", Limit):
        raise PermissionDenied
    wanted = request.GET.get("state", "")
    found = standings(principal.scope(Limit.objects.all()))
    found.sort(key=lambda each: -each.percent)
    shown = [
        each
        for each in found
        if not wanted or (wanted == "close" and each.percent >= CLOSE) or (wanted == "reached" and each.percent >= 100)
    ]
    context: dict[str, Any] = {
        "shown": shown,
        "state": wanted,
        "any": bool(found),
        "readable": all(each.used is not None for each in found),
    }
    if "part" in request.GET:
        return TemplateResponse(request, "gatehouse/budgets_list.html", context)
    context |= {
        **admin.site.each_context(request),
        "title": "Budgets",
        "states": STATES,
        "events": events(principal),
        "sees_events": principal.may("view", LimitEvent),
    }
    return TemplateResponse(request, "gatehouse/budgets.html", context)


def standings_for(key: VirtualKey) -> list[Standing]:
    """Every limit that binds this key: its own, its team's, its organization's."""
    binding = Q(key=key) | Q(organization=key.organization_id)
    if key.team_id:
        binding |= Q(team=key.team_id)
    found = standings(Limit.objects.filter(binding))
    found.sort(key=lambda each: -each.percent)
    return found


def standings(rows: QuerySet[Limit]) -> list[Standing]:
    """How each of these limits stands now. Counters are asked once per organization."""
    by_organization: dict[Organization, list[tuple[Limit, LimitRule]]] = {}
    related = ("organization", "team__organization", "key__organization")
    for row in rows.select_related(*related).order_by("created_at")[:MOST]:
        holder = row.organization or (row.team or row.key).organization  # type: ignore[union-attr]  # exactly one is set
        by_organization.setdefault(holder, []).append((row, reading.rule_of(row)))
    now = time.time()
    found = []
    for organization, pairs in by_organization.items():
        counted = usage([rule for _row, rule in pairs], now, organization)
        for (row, rule), amounts in zip(pairs, counted, strict=True):
            found.append(standing(row, rule, organization, amounts, now))
    return found


def usage(rules: Sequence[LimitRule], now: float, organization: Organization) -> Sequence[tuple[int, int] | None]:
    """(used, held) per rule; None where the store is out of reach."""
    ask = async_to_sync(limits.current().usage)
    try:
        return cast(Sequence["tuple[int, int] | None"], ask(rules, now, organization.time_zone, str(organization.pk)))
    except (StoreDown, TimeoutError):
        return [None] * len(rules)


def standing(
    row: Limit, rule: LimitRule, organization: Organization, amounts: tuple[int, int] | None, now: float
) -> Standing:
    subject: Any = row.key or row.team or row.organization
    kind = "key" if row.key else "team" if row.team else "organization"
    page = {"key": "admin:key_page", "team": "admin:keys_team_change", "organization": "admin:keys_organization_change"}
    ends = windows.span(rule.period, now, organization.time_zone).ends if rule.metric != "concurrent" else None
    return Standing(
        id=str(row.pk),
        rule=rule,
        subject=subject.name,
        subject_kind=kind,
        organization=organization.name,
        link=reverse(page[kind], args=[subject.pk]),
        used=amounts[0] if amounts else None,
        held=amounts[1] if amounts else 0,
        resets=datetime.fromtimestamp(ends, UTC) if ends is not None and ends != float("inf") else None,
    )


def events(principal: Principal) -> list[dict[str, Any]]:
    """The latest times a limit reached 80, 95 or 100 %, with the limit in words while it is there."""
    rows = list(principal.scope(LimitEvent.objects.order_by("-id"))[:EVENTS])
    known = {
        str(row.pk): row
        for row in Limit.objects.filter(pk__in={row.limit_id for row in rows}).select_related(
            "organization", "team", "key"
        )
    }
    found = []
    for row in rows:
        limit = known.get(row.limit_id)
        subject = (limit.key or limit.team or limit.organization) if limit else None
        words = limit_words.words(reading.rule_of(limit)) if limit else "a limit that is gone"
        found.append({"row": row, "words": words, "subject": str(subject or "")})
    return found
