"""The audit log: who changed what, with the difference; filters, CSV, and whether the chain is whole."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from keys import audit
from keys.models import AuditEvent
from keys.principal import principal_of
from lib import json
from lib.ids import first_uuid7
from proxy_site.console.asked import clean
from proxy_site.console.exports import csv_response
from proxy_site.console.key_choice import parsed

PAGE = 50
CHUNK = 2000
KINDS = (
    "key",
    "limit",
    "team",
    "organization",
    "membership",
    "user",
    "connection",
    "model",
    "deployment",
    "price",
    "invitation",
    "body",
)
FILTERS = ("kind", "source", "organization", "q", "first", "last")
COLUMNS = (
    "id", "at", "actor", "actor_id", "source", "address", "organization_id", "action", "target_type", "target_id", "target_name",
    "changes", "previous_hash", "hash",
)  # fmt: skip
LONGEST = 300  # characters of one value on the page


def page(request: HttpRequest) -> HttpResponse:
    """Fifty events by keyset, the newest first. Never counts."""
    values, events = asked(request)
    if before := parsed(request.GET.get("before")):
        events = events.filter(pk__lt=before)
    found = list(events.order_by("-pk")[: PAGE + 1])
    rows, more = found[:PAGE], len(found) > PAGE
    principal = principal_of(request)
    organizations = list(principal.organizations.values_list("pk", "name")[:500])
    names = {str(pk): name for pk, name in organizations}
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Audit log",
        "rows": [
            {
                "event": row,
                "organization": names.get(row.organization_id, ""),
                "differences": list(differences(row.changes)),
            }
            for row in rows
        ],
        "values": values,
        "kinds": KINDS,
        "sources": AuditEvent.Source.choices,
        "organizations": [(str(pk), name) for pk, name in organizations],
        "query": urlencode(values),
        "older": urlencode({**values, "before": str(rows[-1].pk)}) if more else "",
        "newest": bool(before),
        "may_verify": principal.is_platform_admin,
    }
    return TemplateResponse(request, "gatehouse/audit.html", context)


def asked(request: HttpRequest) -> tuple[dict[str, str], QuerySet[AuditEvent]]:
    """The filters of the address, and the events they let through, within what this person may see."""
    principal = principal_of(request)
    if not principal.may("view", AuditEvent):
        raise PermissionDenied("The audit log is for admins.")
    values = {name: clean(request.GET[name]) for name in FILTERS if clean(request.GET.get(name, ""))}
    events = principal.scope(AuditEvent.objects.all())
    if "kind" in values:
        events = events.filter(action__startswith=f"{values['kind']}.")
    if "source" in values:
        events = events.filter(source=values["source"])
    if "organization" in values:
        events = events.filter(organization_id=values["organization"])
    if "q" in values:
        text = values["q"]
        events = events.filter(
            Q(actor__icontains=text)
            | Q(target_name__icontains=text)
            | Q(action__icontains=text)
            | Q(target_id=text)
            | Q(address=text)
        )
    if (first := day(values.get("first", ""))) is not None:
        events = events.filter(pk__gte=first_id(first))
    if (last := day(values.get("last", ""))) is not None:
        events = events.filter(pk__lt=first_id(last + timedelta(days=1)))
    return values, events


def day(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if 2000 < found.year < 9000 else None


def first_id(moment: date) -> uuid.UUID:
    """Ids of events sort by time."""
    return first_uuid7(int(datetime.combine(moment, time(), UTC).timestamp() * 1000))


def differences(changes: Any) -> Iterator[dict[str, str]]:
    """Each field with what it was and what it is."""
    for name, pair in changes.items() if isinstance(changes, dict) else ():
        if isinstance(pair, list) and len(pair) == 2:
            yield {"name": name, "before": told(pair[0]), "after": told(pair[1])}
        else:
            yield {"name": name, "before": "", "after": told(pair)}


def told(value: Any) -> str:
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def as_csv(request: HttpRequest) -> HttpResponseBase:
    _values, events = asked(request)
    return csv_response("audit", COLUMNS, exported(events))


def exported(events: QuerySet[AuditEvent]) -> Iterator[list[Any]]:
    """By keyset, the newest first."""
    last: uuid.UUID | None = None
    changes = COLUMNS.index("changes")
    while True:
        batch = list((events.filter(pk__lt=last) if last else events).order_by("-pk").values_list(*COLUMNS)[:CHUNK])
        for row in batch:
            yield [*row[:changes], json.dumps(row[changes]).decode(), *row[changes + 1 :]]
        if len(batch) < CHUNK:
            return
        last = batch[-1][0]


@require_POST
def verify(request: HttpRequest) -> HttpResponse:
    """Read the whole chain and tell whether every event is as it was written."""
    if not principal_of(request).is_platform_admin:
        raise PermissionDenied("Only a platform admin sees the whole chain.")
    broken = audit.verify()
    if broken is None:
        messages.success(request, "The chain is whole: every event is as it was written, and none is missing.")
    elif broken == "":
        messages.error(request, "Events are missing: the trail is empty, but there was one.")
    else:
        messages.error(request, f"The chain breaks at event {broken}: it, or one after it, was changed or taken away.")
    return HttpResponseRedirect(reverse("admin:audit_log"))
