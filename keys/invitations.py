"""Inviting people: a link to one address, for one place and one role, that works once until it expires.

The link is the invitation's id, signed; nothing that is stored would open it. It is good for as long as whoever sent
it could still grant that role: an administrator who left leaves no doors behind.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Final

from django.core import signing
from django.db import models, transaction
from django.utils import timezone

from keys import audit
from keys.audit import Actor
from keys.models import Invitation, Membership, Organization, Team, User
from keys.principal import Principal

LIFETIME: Final = timedelta(days=7)
AN_HOUR: Final = 30  # invitations one person may send in an hour
PENDING: Final = 500  # invitations one organization may have waiting
SALT: Final = "keys.invitation"


class InvitationRefused(ValueError):
    """It cannot be sent or accepted. The message is a sentence for the person who asked."""


def invite(
    *, email: str, organization: Organization, team: Team | None, role: str, by: User, actor: Actor
) -> Invitation:
    """Ask somebody in. Raises InvitationRefused; what `by` may grant is asked of the principal."""
    email = email.strip().lower()
    if team is not None and team.organization_id != organization.pk:
        raise InvitationRefused("This team belongs to another organization.")
    if not Principal.of(by).may_grant(role, organization.pk, team.pk if team else None):
        raise InvitationRefused("You cannot grant a role above your own.")
    place = {"organization": organization, "team": team}
    if Membership.objects.filter(user__email__iexact=email, **place).exists():
        raise InvitationRefused(f"{email} is a member here already.")
    if pending().filter(email=email, **place).exists():
        raise InvitationRefused(f"{email} is invited already. Revoke that invitation to send another.")
    hour_ago = timezone.now() - timedelta(hours=1)
    if Invitation.objects.filter(created_by=by, created_at__gte=hour_ago).count() >= AN_HOUR:
        raise InvitationRefused(f"You have sent {AN_HOUR} invitations within an hour. Go on later.")
    if pending().filter(organization=organization).count() >= PENDING:
        raise InvitationRefused(f"{PENDING} invitations are waiting here. Revoke some first.")
    with transaction.atomic():
        made = Invitation.objects.create(
            email=email, role=role, created_by=by, expires_at=timezone.now() + LIFETIME, **place
        )
        told = {"email": [None, email], "role": [None, role], "team": [None, str(team) if team else None]}
        audit.record(actor, "invitation.created", made, told)
    return made


def pending() -> models.QuerySet[Invitation]:
    return Invitation.objects.filter(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())


def token(invitation: Invitation) -> str:
    """What the link carries."""
    return signing.Signer(salt=SALT).sign(invitation.pk.hex)


def found(given: str) -> Invitation | None:
    """The invitation of a link, while it is good."""
    try:
        pk = uuid.UUID(signing.Signer(salt=SALT).unsign(given))
    except (signing.BadSignature, ValueError):
        return None
    row = pending().select_related("organization", "team", "created_by").filter(pk=pk).first()
    return row if row is not None and _still_granted(row) else None


def _still_granted(row: Invitation) -> bool:
    return row.created_by is not None and Principal.of(row.created_by).may_grant(
        row.role, row.organization_id, row.team_id
    )


def accept(invitation: Invitation, user: User, address: str) -> None:
    """Make `user`, whose address was invited, a member. Raises InvitationRefused, also the second time.

    Somebody who is a member there already stays what they are.
    """
    if user.email.lower() != invitation.email.lower():
        raise InvitationRefused(f"This invitation is for {invitation.email}.")
    with transaction.atomic():
        row = Invitation.objects.select_for_update(of=("self",)).get(pk=invitation.pk)
        if row.state != "Pending" or not _still_granted(row):
            raise InvitationRefused("This invitation is no longer good. Ask for a new one.")
        row.accepted_at = timezone.now()
        row.save(update_fields=["accepted_at"])
        member, made = Membership.objects.get_or_create(
            user=user, organization=row.organization, team=row.team, defaults={"role": row.role}
        )
        actor = Actor(id=str(user.pk), name=user.email, source="admin", address=address)
        audit.record(actor, "invitation.accepted", row, {})
        if made:
            audit.record(actor, "membership.created", member, audit.differences(None, member))


def revoke(invitation: Invitation, actor: Actor) -> None:
    """Close the link. Raises InvitationRefused when it is used already; again is harmless."""
    with transaction.atomic():
        row = Invitation.objects.select_for_update(of=("self",)).get(pk=invitation.pk)
        if row.accepted_at:
            raise InvitationRefused(f"{row.email} has accepted it already. Take the membership away instead.")
        if row.revoked_at is None:
            row.revoked_at = timezone.now()
            row.save(update_fields=["revoked_at"])
            audit.record(actor, "invitation.revoked", row, {})
    invitation.revoked_at = row.revoked_at
