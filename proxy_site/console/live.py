"""The requests page's company: rows that arrive while one looks, one record as JSON, and the filtered log as CSV."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse

from keys.principal import principal_of
from proxy_site.console.exports import csv_response
from usage import figures, paging, prices
from usage.admin import Filters, parsed
from usage.models import RequestRecord

LOOK = 0.05  # seconds: it is asked every second
CHUNK = 2000  # rows per query of an export

COLUMNS = (
    "id", "started_at", "organization", "team", "key", "owner", "label", "action", "stream", "requested_model", "model",
    "deployment", "backend", "upstream_model", "http_status", "status", "error", "finish_reason", "prompt_tokens",
    "cached_tokens", "cache_write_tokens", "tool_use_tokens", "output_tokens", "thoughts_tokens", "price_version",
    "ttft_ms", "total_ms", "dropped", "client", "address", "tags", "flags",
)  # fmt: skip


def records_of(request: HttpRequest) -> tuple[QuerySet[RequestRecord], Filters]:
    """What the address asks for, within what this person may see."""
    principal = principal_of(request)
    if not principal.may("view", RequestRecord):
        raise PermissionDenied
    filters = Filters(request)
    return filters.apply(principal.scope(RequestRecord.objects.all())), filters


def rows(request: HttpRequest) -> HttpResponse:
    """?after=ID: the table's newest rows since then, as rows of a table."""
    records, filters = records_of(request)
    after = parsed(request.GET.get("after"))
    start = paging.moment(after) if after else filters.period.start
    found = paging.page(records.filter(pk__gt=after) if after else records, start, filters.end, budget=LOOK).rows
    return TemplateResponse(request, "gatehouse/request_rows.html", {"rows": found, "filters": filters})


def one(request: HttpRequest) -> JsonResponse:
    """?id=ID: what the playground says of its call, in words; nothing until the ledger has it."""
    wanted = parsed(request.GET.get("id"))
    record = principal_of(request).scope(RequestRecord.objects.filter(pk=wanted)).first() if wanted else None
    if record is None:
        return JsonResponse({"found": False})
    return JsonResponse(
        {
            "found": True,
            "url": reverse("admin:usage_requestrecord_change", args=[record.pk]),
            "status": f"{record.http_status} {record.status}",
            "deployment": record.deployment,
            "tokens": f"{record.prompt_tokens:,} tokens in, {record.output_tokens:,} out",
            "cost": figures.dollars(record.cost_nano),
            "total": figures.duration(record.total_ms),
        }
    )


def as_csv(request: HttpRequest) -> HttpResponseBase:
    """Every request that the filters let through, the newest first."""
    records, _filters = records_of(request)
    return csv_response("requests", [*COLUMNS, "cost_usd"], exported(records))


def exported(records: QuerySet[RequestRecord]) -> Iterator[list[Any]]:
    """By keyset, so that neither memory nor any query grows with the export."""
    last: uuid.UUID | None = None
    while True:
        page = records.filter(pk__lt=last) if last else records
        batch = list(page.order_by("-pk").values_list(*COLUMNS, "cost_nano")[:CHUNK])
        for row in batch:
            yield [*row[:-1], None if row[-1] is None else prices.usd(row[-1])]
        if len(batch) < CHUNK:
            return
        last = batch[-1][0]
