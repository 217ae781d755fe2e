"""Whom a single sign-on provider names, and what their groups make of them here.

A person is known by issuer and subject. The first time, a verified mail address leads to the account that has it; who has
none gets one only if a group gives a role. Roles follow the groups at every sign-in: what a group gave goes with it, what
a person gave stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from keys import audit
from keys.audit import Actor
from keys.models import Identity, Membership, Organization, Team, User
from keys.principal import Principal
from keys.role_map import Roles

logger = logging.getLogger(__name__)

SUBJECT_LENGTH: Final = 255  # OpenID Connect Core 1.0, section 2


class NotAdmitted(Exception):
    """This person does not come in. The message is a sentence for them, and holds no secret."""


@dataclass(frozen=True)
class Named:
    """Somebody as the provider names them."""

    issuer: str
    subject: str
    email: str = ""  # "" unless the provider has verified it
    first_name: str = ""
    last_name: str = ""


def admit(named: Named, roles: Roles, address: str) -> User:
    """The person, with the roles of their groups. Raises NotAdmitted.

    address: where they come from, for the audit log. Roles that are gone are taken also when nobody is admitted.
    """
    with transaction.atomic():
        identity = _identity(named, roles, address)
        person = identity.user
        if not person.is_active:
            raise NotAdmitted("Your account is blocked. Ask a platform admin.")
        _give(person, identity, roles, _actor(address))
        Identity.objects.filter(pk=identity.pk).update(last_used_at=timezone.now())
    if not Principal.of(person).has_any_role:
        raise NotAdmitted("None of your groups has a role here any more. Ask whoever looks after Gatehouse.")
    return person


def bound(person: User) -> bool:
    """Whether groups gave this person what they may do, who then signs in by no other way: the groups would not be asked.

    Platform admins made by hand are not bound: somebody must come in when the provider does not answer.
    """
    if person.identities.filter(made_platform_admin=True).exists():
        return True
    return not person.is_superuser and person.memberships.filter(by_group=True).exists()


def unlink(person: User, actor: Actor) -> None:
    """Forget how providers know this person, and take what their groups gave."""
    with transaction.atomic():
        for identity in person.identities.all():
            _give(person, identity, Roles(), actor)
            identity.delete()
        audit.record(actor, "user.identity_unlinked", person, {})


# ---- who it is


def _identity(named: Named, roles: Roles, address: str) -> Identity:
    known = Identity.objects.filter(issuer=named.issuer, subject=named.subject).first()
    if known is not None:
        known.user = User.objects.select_for_update().get(pk=known.user_id)  # two sign-ins at once: one after the other
        return known
    if not named.email:
        raise NotAdmitted("The provider names no mail address of yours that it has verified.")
    alike = User.objects.select_for_update().filter(email__iexact=named.email)
    # Databases fold letters that only look alike (\u0131 to I): such an address is another one.
    person = next((each for each in alike if each.email.lower() == named.email.lower()), None)
    if person is None:
        if not roles:
            raise NotAdmitted("None of your groups has a role here. Ask whoever looks after Gatehouse.")
        person = User.objects.create_user(
            named.email, None, first_name=named.first_name[:150], last_name=named.last_name[:150]
        )
        audit.record(_actor(address), "user.created", person, {"email": [None, person.email]})
    elif not person.is_active:
        raise NotAdmitted("Your account is blocked. Ask a platform admin.")
    elif person.identities.filter(issuer=named.issuer).exists():
        # An address that was given to somebody else: they do not inherit the account.
        raise NotAdmitted("The account with your mail address belongs to somebody else at the provider.")
    audit.record(_actor(address), "user.identity_linked", person, {"subject": [None, named.subject]})
    return Identity.objects.create(user=person, issuer=named.issuer, subject=named.subject)


def _actor(address: str) -> Actor:
    return Actor(name="single sign-on", source="system", address=address)


# ---- what they may do


def _give(person: User, identity: Identity, roles: Roles, actor: Actor) -> None:
    """Make the roles those of the groups, and no others that groups had given."""
    wanted = _places(roles)
    held = {(row.organization_id, row.team_id): row for row in person.memberships.all()}
    for place, role in wanted.items():
        _set(person, held.get(place), place, role, actor)
    for place, row in held.items():
        if row.by_group and place not in wanted:
            audit.record(actor, "membership.deleted", row, {"role": [row.role, None]})
            row.delete()
    _set_platform_admin(person, identity, roles.superuser, actor)
    person.refresh_from_db()


def _places(roles: Roles) -> dict[tuple[Any, Any], str]:
    """By the ids of organization and team. What is named but does not exist gives nothing."""
    found: dict[tuple[Any, Any], str] = {}
    for (organization, team), role in roles.places.items():
        place = _ids(organization, team)
        if place is None:
            logger.warning("A group gives a role in %s/%s, which does not exist.", organization, team)
        else:
            found[place] = role
    return found


def _ids(organization: str, team: str) -> tuple[Any, Any] | None:
    if team:
        teams = Team.objects.filter(slug=team, organization__slug=organization)
        return teams.values_list("organization_id", "pk").first()
    found = Organization.objects.filter(slug=organization).values_list("pk", flat=True).first()
    return (found, None) if found else None


def _set(person: User, row: Membership | None, place: tuple[Any, Any], role: str, actor: Actor) -> None:
    if row is None:
        organization_id, team_id = place
        row = Membership.objects.create(
            user=person, organization_id=organization_id, team_id=team_id, role=role, by_group=True
        )
        audit.record(actor, "membership.created", row, {"role": [None, role]})
    elif row.role != role or not row.by_group:
        before = {"role": row.role, "by_group": row.by_group}
        row.role, row.by_group = role, True
        row.save(update_fields=["role", "by_group"])
        audit.record(actor, "membership.changed", row, _changes(before, {"role": role, "by_group": True}))


def _set_platform_admin(person: User, identity: Identity, wanted: bool, actor: Actor) -> None:
    """Who was made one by hand stays one, so that a wrong mapping does not lock everybody out."""
    if (wanted and person.is_superuser) or (not wanted and not identity.made_platform_admin):
        return
    Identity.objects.filter(pk=identity.pk).update(made_platform_admin=wanted)
    changes = {"is_superuser": wanted, "is_staff": wanted or person.memberships.exists()}
    audit.record(actor, "user.changed", person, _changes({"is_superuser": person.is_superuser}, changes))
    User.objects.filter(pk=person.pk).update(**changes)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [value, after[name]] for name, value in before.items() if value != after[name]}
