"""Keys that end soon: their holder is told a week and a day before, by mail, once each.

A background task looks every hour, never on a call's way. Which process tells is decided in the database. A service
key, and one whose holder has left, is the organization's admins' to hear of. Without mail nothing is told, and what
was missed is not made up for.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from keys import mail
from keys.models import ExpiryReminder, Membership, VirtualKey
from lib.background import Background
from lib.database import own_connection

DAYS: Final = (1, 7)  # before the end; the nearest one that has come is told
EVERY: Final = 3600.0  # seconds
AGAIN: Final = 600.0  # seconds until the next round after one that failed


def due(now: datetime) -> list[tuple[VirtualKey, int]]:
    """Keys with the reminder whose time has come: (key, days). Keys made later than that hear nothing."""
    ending = VirtualKey.objects.filter(
        state=VirtualKey.State.ACTIVE, expires_at__gt=now, expires_at__lte=now + timedelta(days=max(DAYS))
    ).select_related("organization", "owner")
    found = []
    for key in ending:
        assert key.expires_at is not None  # just asked for
        days = next(each for each in sorted(DAYS) if key.expires_at - now <= timedelta(days=each))
        if key.created_at <= key.expires_at - timedelta(days=days):
            found.append((key, days))
    return found


def remind(now: datetime | None = None) -> int:
    """Tell whoever is due; how many keys were told of."""
    if not mail.configured():
        return 0
    told = 0
    for key, days in due(now or timezone.now()):
        assert key.expires_at is not None  # or it would not be due
        row, mine = ExpiryReminder.objects.get_or_create(key=key, expires_at=key.expires_at, days=days)
        if not mine:
            continue
        people = hearers(key)
        if people and mail.send(people, *letter(key)):
            row.delete()  # the next round tries again
            continue
        told += bool(people)
    return told


def hearers(key: VirtualKey) -> list[str]:
    """The holder while they belong to the organization, else those who administer it."""
    members = Membership.objects.filter(organization=key.organization, user__is_active=True)
    if key.owner is not None and key.owner.is_active and members.filter(user=key.owner).exists():
        return [key.owner.email]
    over = Q(team=None) if key.team_id is None else Q(team=None) | Q(team_id=key.team_id)
    admins = members.filter(over, role__in=[Membership.Role.OWNER, Membership.Role.ADMIN])
    return sorted(set(admins.values_list("user__email", flat=True)))


def letter(key: VirtualKey) -> tuple[str, str]:
    """Subject and text."""
    address = settings.PUBLIC_URL.rstrip("/") + reverse("admin:keys_virtualkey_change", args=[key.pk])
    subject = f"The key {key.name} ends on {key.expires_at:%Y-%m-%d}"
    text = (
        f"The virtual key {key.name} of {key.organization.name} ends on {key.expires_at:%Y-%m-%d %H:%M} UTC. "
        "Calls with it are refused from then on.\n\n"
        f"To let it go on, give it a later date:\n{address}\n"
    )
    return subject, text


def _round() -> None:
    with own_connection():
        remind()


_rounds = Background("keys.reminders", lambda: asyncio.to_thread(_round), every=EVERY, again=AGAIN)
open = _rounds.open
close = _rounds.close
