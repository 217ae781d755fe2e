"""Request and answer of one call, where its key has them kept: for the organization's owners and admins, and audited.

Who may not read them is not told whether there are any.
"""

from __future__ import annotations

import json as pretty
import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from keys import audit
from keys.principal import Principal, principal_of
from keys.scoped_admin import actor_of
from proxy_site.console.key_choice import parsed
from routing.credentials import CredentialError
from usage import body_store
from usage.body_store import Body
from usage.models import RequestRecord, StoredBody

LATEST, LOOKED_AT = 8, 50
ASKING = ("generateContent", "streamGenerateContent")
NOT_KEPT = re.compile(r"\([\w.+/; =-]+, \d+ bytes, not kept\)")  # what usage.bodies leaves in place of media


@dataclass(frozen=True, slots=True)
class Latest:
    """A kept request to choose from."""

    id: str
    at: datetime
    key: str
    model: str


def found(principal: Principal, call_id: uuid.UUID | str) -> StoredBody | None:
    """What was kept of this call, when this person may read it and its time is not over."""
    wanted = parsed(call_id)
    rows = body_store.kept(principal.scope(StoredBody.objects.filter(pk=wanted))) if wanted else None
    return rows.first() if rows is not None else None


def read(request: HttpRequest, row: StoredBody) -> Body:
    """Open it, and write down who did. Raises CredentialError."""
    audit.record(actor_of(request), "body.read", row)
    return body_store.opened(row)


def page(request: HttpRequest, call_id: uuid.UUID) -> HttpResponse:
    """What was asked and answered; 404 for whom it is not."""
    row = found(principal_of(request), call_id)
    if row is None:
        raise Http404
    context = {
        **admin.site.each_context(request),
        "title": "Request and answer",
        "subtitle": str(row.pk),
        "call_id": row.pk,
        "record": principal_of(request).scope(RequestRecord.objects.filter(pk=row.pk)).first(),
        "until": row.at + timedelta(days=settings.GATEHOUSE.body_retention_days),
    }
    try:
        body = read(request, row)
    except CredentialError as error:
        context["problem"] = str(error)
    else:
        context |= {"body": body, "asked": laid_out(body.request), "answered": laid_out(body.answer)}
    return TemplateResponse(request, "gatehouse/body.html", context)


def laid_out(text: str) -> str:
    """JSON as people read it; anything else as it is."""
    try:
        return pretty.dumps(pretty.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def latest(principal: Principal) -> list[Latest]:
    """The newest kept requests that asked a model something, for a person who may read them."""
    rows = body_store.kept(principal.scope(StoredBody.objects.order_by("-at")))
    ids = list(rows.values_list("pk", flat=True)[:LOOKED_AT])
    records = principal.scope(RequestRecord.objects.filter(pk__in=ids, action__in=ASKING)).order_by("-pk")[:LATEST]
    return [Latest(str(each.pk), each.started_at, each.key, each.model) for each in records]


def with_stand_ins(text: str, media: str) -> str:
    """A kept request that can be translated again: `media`, in base64, in place of what was not kept."""
    return NOT_KEPT.sub(media, text)
