"""Request records (read-only, keyset pages, no counts) and price overrides in the admin."""

from __future__ import annotations

import shlex
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, QueryDict
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget

from keys.dates import ago
from keys.models import Organization, Team, VirtualKey
from keys.principal import Principal
from keys.scoped_admin import ReadOnlyAdmin, ScopedAdmin
from lib.ids import first_uuid7
from routing.models import Deployment, PublicModel
from usage import body_store, breakdown, figures, paging, summaries
from usage.models import PriceOverride, RequestRecord, StoredBody
from usage.paging import Page
from usage.summaries import STEPS, Period, Step

NONE = "-"  # in a filter: rows that have no value there
RANGES = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
OUTCOMES = {
    "ok": Q(http_status__lt=400),
    "limited": Q(http_status=429),
    "client": Q(http_status__gte=400, http_status__lt=500) & ~Q(http_status__in=[429, 499]),
    "server": Q(http_status__gte=500),
    "cancelled": Q(http_status=499),
}
OUTCOME_LABELS = [
    ("ok", "Success"),
    ("limited", "Rate limited"),
    ("client", "Client error"),
    ("server", "Server error"),
    ("cancelled", "Client left"),
]


class Filters:
    """What the query string of the requests page asks for. Unknown values are no filter; a bad id finds nothing.

    from, to: times in ISO 8601, instead of a range. A value of "-" asks for rows that have none.
    """

    TEXT = ("organization", "team", "key", "owner", "model", "deployment", "backend", "action", "status", "label")

    def __init__(self, request: HttpRequest) -> None:
        given = request.GET
        self.values = {name: given[name].replace("\x00", "") for name in self.TEXT if given.get(name, "").strip("\x00")}
        self.range = given.get("range", "") if given.get("range") in RANGES else "7d"
        self.outcome = given.get("outcome", "") if given.get("outcome") in OUTCOMES else ""
        self.stream = given.get("stream", "") if given.get("stream") in ("yes", "no") else ""
        self.id = given.get("id", "").strip()
        self.start, self.end = instant(given.get("from", "")), instant(given.get("to", ""))
        if self.start or self.end:
            self.range = ""

    @property
    def period(self) -> Period:
        """The span of time asked for."""
        now = timezone.now()
        end = self.end or now
        return Period(self.start or end - RANGES[self.range or "7d"], end)

    def apply(self, records: QuerySet[RequestRecord]) -> QuerySet[RequestRecord]:
        columns = {"organization": "organization_id", "team": "team_id", "key": "key_id", "deployment": "deployment_id"}
        if self.id:
            try:
                return records.filter(pk=uuid.UUID(self.id))
            except ValueError:
                return records.none()
        period = self.period
        records = records.filter(pk__gte=first_uuid7(int(period.start.timestamp() * 1000)))
        if self.end:
            records = records.filter(pk__lt=first_uuid7(int(period.end.timestamp() * 1000)))
        values = {columns.get(name, name): "" if value == NONE else value for name, value in self.values.items()}
        records = records.filter(**values)
        if self.outcome:
            records = records.filter(OUTCOMES[self.outcome])
        if self.stream:
            records = records.filter(stream=self.stream == "yes")
        return records

    def query(self, **changed: str) -> str:
        """The same filters as a query string, with some changed; "" takes one away."""
        now = {
            **self.values,
            "range": self.range,
            "from": self.start.isoformat() if self.start else "",
            "to": self.end.isoformat() if self.end else "",
            "outcome": self.outcome,
            "stream": self.stream,
            "id": self.id,
            **changed,
        }
        return urlencode({name: value for name, value in now.items() if value})


def instant(text: str) -> datetime | None:
    """A time in ISO 8601, UTC when it names no zone; None when it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found if 2000 < found.year < 9000 else None


def strip(filters: Filters, principal: Principal) -> dict[str, Any] | None:
    """The histogram above the table: calls by how they ended, each bar leading to its own. None: too long, or by id."""
    period = filters.period
    span = period.end - period.start
    step: Step = "minute" if span <= timedelta(hours=3) else "hour" if span <= timedelta(days=7) else "day"
    if filters.id or span <= timedelta(0) or span > STEPS[step]:
        return None
    values = {name: "" if value == NONE else value for name, value in filters.values.items()}
    found = summaries.outcomes(period, summaries.narrowed(values, principal.condition("usage.usagebucket")), step)
    written = {"minute": "%H:%M", "hour": "%d %b %H:%M", "day": "%d %b"}[step]
    ends = [*found.steps[1:], summaries.following(found.steps[-1], step)]
    return {
        "labels": [at.strftime(written) for at in found.steps],
        "links": [
            f"?{filters.query(range='', **{'from': start.isoformat(), 'to': end.isoformat()})}"
            for start, end in zip(found.steps, ends, strict=True)
        ],
        "requests": [
            {"label": "Success", "data": found.ok},
            {"label": "Rate limited", "data": found.rate_limited},
            {"label": "Error", "data": found.failed},
            {"label": "Client left", "data": found.cancelled},
        ],
    }


def page_of(records: QuerySet[RequestRecord], filters: Filters, given: QueryDict) -> Page:
    """The page of the log that the address asks for."""
    if filters.id:
        return Page(list(records[:1]))
    before, after = parsed(given.get("before")), parsed(given.get("after"))
    return paging.page(records, filters.period.start, filters.end, before=before, after=after)


def parsed(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None


@admin.register(RequestRecord)
class RequestRecordAdmin(ReadOnlyAdmin):
    """One row per call. The list is a page of our own, because Django's would count the rows."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> TemplateResponse:
        if not self.has_view_permission(request):
            self.refuse("view")
        filters = Filters(request)
        page = page_of(filters.apply(self.get_queryset(request)), filters, request.GET)
        principal = self.principal(request)
        context = {
            **self.admin_site.each_context(request),
            "title": "Requests",
            "opts": self.opts,
            "rows": page.rows,
            "looked": page.looked,
            "filters": filters,
            "choices": choices_of(principal),
            "ranges": [(name, filters.query(range=name, **{"from": "", "to": ""})) for name in RANGES],
            "charts": strip(filters, principal),
            "chips": chips(filters, page.rows),
            "live": not page.newer and not filters.end and not filters.id,
            "query": filters.query(),
            "outcomes": OUTCOME_LABELS,
            "older": filters.query(before=page.older) if page.older else "",
            "newer": filters.query(after=page.newer) if page.newer else "",
            "filtered": bool(filters.values or filters.outcome or filters.stream or filters.id),
        }
        return TemplateResponse(request, "gatehouse/requests.html", context)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> TemplateResponse:
        if object_id is None:
            raise Http404
        record = self.get_object(request, object_id)
        key_id = parsed(record.key_id)
        seen = key_id and self.principal(request).scope(VirtualKey.objects.filter(pk=key_id)).exists()
        tokens = breakdown.lines(record)
        context = {
            **self.admin_site.each_context(request),
            "title": "Request",
            "subtitle": str(record.pk),
            "opts": self.opts,
            "original": record,
            "record": record,
            "attempts": figures.waterfall(record),
            "tokens": tokens,
            "parts": breakdown.parts(tokens),
            "key_page": reverse("admin:key_page", args=[key_id]) if seen else "",
            "curl": curl(record),
            "kept": body_store.kept(self.principal(request).scope(StoredBody.objects.filter(pk=record.pk))).exists(),
        }
        return TemplateResponse(request, "gatehouse/request.html", context)


SELECTED = ("organization", "team", "key", "model", "deployment", "label")  # filters that have a select of their own


def chips(filters: Filters, rows: list[RequestRecord]) -> list[dict[str, str]]:
    """The filters that no select shows, each with the address without it."""
    shown = []
    for name, value in filters.values.items():
        if name in SELECTED and value != NONE:
            continue
        text = "none" if value == NONE else str(getattr(rows[0], name)) if rows and name == "team" else value
        shown.append({"label": name.capitalize(), "text": text, "without": filters.query(**{name: ""})})
    if filters.start or filters.end:
        period = filters.period
        text = f"{period.start.astimezone(UTC):%Y-%m-%d %H:%M} to {period.end.astimezone(UTC):%Y-%m-%d %H:%M}"
        without = filters.query(range="7d", **{"from": "", "to": ""})
        shown.append({"label": "Time", "text": text, "without": without})
    return shown


def curl(record: RequestRecord) -> str:
    """The same kind of call as a line for a shell. A greeting stands in place of what was asked."""
    base = (settings.GATEHOUSE.public_url or settings.PUBLIC_URL).rstrip("/")
    flags, ending = ("-N ", "?alt=sse") if record.stream else ("", "")
    address = (
        f"{base}/v1beta/models/{quote(record.requested_model or record.model, safe='/-._~')}:{record.action}{ending}"
    )
    body = '{"contents": [{"role": "user", "parts": [{"text": "Say hello"}]}]}'
    return (
        f"curl {flags}{shlex.quote(address)} \\\n"
        f'  -H "x-goog-api-key: YOUR_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(body)}"
    )


def choices_of(principal: Principal) -> dict[str, list[tuple[str, str]]]:
    """What the selects of the requests page offer: things this person may see."""
    models = principal.scope(PublicModel.objects.order_by("name")).values_list("name", flat=True)[:500]
    deployments = principal.scope(Deployment.objects.select_related("connection"))
    named = {
        "organizations": Organization.objects.all(),
        "teams": Team.objects.order_by("name"),
        "keys": VirtualKey.objects.order_by("name"),
    }
    return {
        **{
            kind: [(str(pk), name) for pk, name in principal.scope(rows).values_list("pk", "name")[:500]]
            for kind, rows in named.items()
        },
        "models": [(name, name) for name in dict.fromkeys(models)],
        "deployments": [
            (str(row.pk), str(row)) for row in deployments.only("upstream_model", "connection__name")[:500]
        ],
    }


# Prices


class PriceForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    deployment_id = forms.ChoiceField(label="Deployment", widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "deployment_id" in self.fields:
            rows = Deployment.objects.select_related("connection", "model")
            self.fields["deployment_id"].choices = [(str(row.pk), f"{row.model}: {row}") for row in rows]  # type: ignore[attr-defined]  # a ChoiceField


@admin.register(PriceOverride)
class PriceOverrideAdmin(ScopedAdmin):
    """What a deployment's tokens really cost. Money is the platform's: only its admins change it."""

    form = PriceForm
    topic = "catalog"
    audit_name = "price"
    list_display = ("deployment", "input_price", "output_price", "since")
    fieldsets = (
        (None, {"fields": ("deployment_id", "valid_from")}),
        ("Price in USD per million tokens", {"fields": (("input", "output"),)}),
        (
            "Tokens with a price of their own, in USD per million; empty: as input or output",
            {
                "classes": ("collapse",),
                "fields": (
                    ("cached_input", "cache_write"),
                    ("thoughts", "audio_input"),
                    ("image_input", "audio_output"),
                    ("image_output",),
                ),
            },
        ),
        (
            "Long prompts, in USD per million tokens",
            {
                "classes": ("collapse",),
                "fields": ("long_context_from", ("long_input", "long_cached_input", "long_output")),
            },
        ),
    )

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {
            "valid_from": timezone.now().replace(second=0, microsecond=0),
            **super().get_changeform_initial_data(request),
        }

    @display(description="Deployment")
    def deployment(self, row: PriceOverride) -> str:
        found = Deployment.objects.filter(pk=row.deployment_id).select_related("connection").first()
        return str(found) if found else "a deployment that is gone"

    @display(description="Input $/M")
    def input_price(self, row: PriceOverride) -> str:
        return format_html('<span class="gh-figure">{}</span>', f"{row.input.normalize():f}")

    @display(description="Output $/M")
    def output_price(self, row: PriceOverride) -> str:
        return format_html('<span class="gh-figure">{}</span>', f"{row.output.normalize():f}")

    @display(description="From", ordering="valid_from")
    def since(self, row: PriceOverride) -> str:
        return ago(row.valid_from)
