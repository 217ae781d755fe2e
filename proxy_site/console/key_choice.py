"""Which key a page is about: those a person may see, and a key as the gateway itself knows it."""

from __future__ import annotations

import uuid

from django.db.models import F
from django.http import Http404, HttpRequest

from keys import reading
from keys.context import KeyContext
from keys.models import KeySecret, VirtualKey
from keys.principal import ADMIN, Principal, principal_of

MOST = 500
PROBLEMS = {
    "revoked": "This key is revoked for good. Make a new key instead.",
    "expired": "This key has expired. Give it a later expiry on its page.",
}


def own_or_seen(request: HttpRequest, key_id: uuid.UUID | str) -> VirtualKey:
    """A key this person may see; 404 else."""
    rows = VirtualKey.objects.select_related("organization", "team", "owner")
    wanted = parsed(key_id)
    found = principal_of(request).scope(rows).filter(pk=wanted).first() if wanted else None
    if found is None:
        raise Http404
    return found


def managed(request: HttpRequest, key_id: uuid.UUID | str) -> VirtualKey:
    """A key this person is an admin over; 404 else."""
    found = own_or_seen(request, key_id)
    if not administers(principal_of(request), found):
        raise Http404
    return found


def administers(principal: Principal, key: VirtualKey) -> bool:
    return principal.rank_over(key.organization_id, key.team_id) >= ADMIN


def is_admin_somewhere(principal: Principal) -> bool:
    return principal.is_platform_admin or bool(principal.organizations_with(ADMIN) or principal.teams_with(ADMIN))


def choices(principal: Principal, rank: int | None = None) -> list[tuple[str, str]]:
    """(id, name) of the keys to choose from; with a rank: those this person holds it over. Several tenants: named."""
    rows = principal.scope(VirtualKey.objects.select_related("organization"), rank=rank)
    found = list(rows.exclude(state=VirtualKey.State.REVOKED).order_by("organization__name", "name")[:MOST])
    several = len({row.organization_id for row in found}) > 1
    return [(str(row.pk), f"{row.name} ({row.organization.name})" if several else row.name) for row in found]


def context_of(key: VirtualKey) -> KeyContext | str:
    """The key as a process would know it, by its newest live secret; or a sentence why it cannot be used."""
    secret = KeySecret.objects.filter(key=key).order_by(F("revoked_at").asc(nulls_first=True), "-created_at").first()
    if secret is None:
        return "This key has no secret yet: rotate it."
    found = reading.contexts([secret.fingerprint]).get(secret.fingerprint)
    if isinstance(found, KeyContext):
        return found
    return PROBLEMS.get(found or "", "This key cannot be used.")


def parsed(text: uuid.UUID | str | None) -> uuid.UUID | None:
    if isinstance(text, uuid.UUID):
        return text
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
