"""The names of the models an organization could ask for: what the key form's patterns are tried on."""

from __future__ import annotations

import uuid

from django.db.models import Q
from django.http import HttpRequest, JsonResponse

from keys.models import VirtualKey
from keys.principal import principal_of
from routing.models import PublicModel


def view(request: HttpRequest) -> JsonResponse:
    """?organization=ID or ?key=ID; what is foreign to the person adds nothing."""
    principal = principal_of(request)
    organization = parsed(request.GET.get("organization"))
    if key_id := parsed(request.GET.get("key")):
        key = principal.scope(VirtualKey.objects.filter(pk=key_id)).first()
        organization = key.organization_id if key else None
    rows = principal.scope(PublicModel.objects.filter(enabled=True))
    rows = rows.filter(Q(organization=None) | Q(organization_id=organization))
    return JsonResponse({"models": sorted(set(rows.values_list("name", flat=True)))})


def parsed(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
