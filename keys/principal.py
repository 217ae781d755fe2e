"""Principal: what a signed-in person may see and do. Everything the admin, its JSON and its exports show is asked here.

A superuser is a platform admin. Everybody else acts by membership, in an organization or in one team of it:

    owner, admin   see and manage everything within their reach; only an owner makes owners
    member         sees what is within reach, manages the keys they own
    viewer         sees, changes nothing

`SCOPES` is the one table that says what belongs to whom. A model that is not in it belongs to platform admins.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

from django.db.models import Model, Q, QuerySet
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import receiver
from django.http import HttpRequest

from keys import audit, notices
from keys.models import Invitation, Membership, Organization, Team, User, VirtualKey

Row = TypeVar("Row", bound=Model)
Verb = Literal["view", "add", "change", "delete"]

RANK: dict[str, int] = {"viewer": 1, "member": 2, "admin": 3, "owner": 4}
VIEWER, MEMBER, ADMIN, OWNER = 1, 2, 3, 4


@dataclass(frozen=True)
class Scope:
    """Where a model's rows say whose they are (paths of lookups; "" when they do not).

    shared: a row without organization is everyone's to see. see, change: the rank needed for it.
    """

    organization: str = "organization_id"
    team: str = ""
    owner: str = ""
    shared: bool = False
    see: int = VIEWER
    change: int = ADMIN


SCOPES: dict[str, Scope] = {
    "keys.organization": Scope("id"),
    "keys.team": Scope("organization_id", team="id"),
    "keys.membership": Scope("organization_id", team="team_id", see=ADMIN),
    "keys.invitation": Scope("organization_id", team="team_id", see=ADMIN),
    "keys.virtualkey": Scope("organization_id", team="team_id", owner="owner_id"),
    "keys.keysecret": Scope("key__organization_id", team="key__team_id", owner="key__owner_id"),
    "keys.auditevent": Scope("organization_id", see=ADMIN, change=99),
    "routing.connection": Scope("organization_id", see=ADMIN),
    "routing.publicmodel": Scope("organization_id", shared=True),
    "routing.deployment": Scope("model__organization_id", see=ADMIN),
    "usage.requestrecord": Scope("organization_id", team="team_id", change=99),
    "usage.usagebucket": Scope("organization_id", team="team_id", change=99),
    "usage.limitevent": Scope("organization_id", see=ADMIN, change=99),
    "usage.storedbody": Scope("organization_id", see=ADMIN, change=99),
}


class Principal:
    """One person with their memberships, read once per request."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.is_platform_admin = bool(user.is_active and user.is_superuser)

    @classmethod
    def of(cls, user: Any) -> Principal:
        return cls(cast(User, user))

    @cached_property
    def ranks(self) -> dict[uuid.UUID, int]:
        """Organization: rank over all of it."""
        return {org: rank for org, team, rank in self._memberships if team is None}

    @cached_property
    def team_ranks(self) -> dict[uuid.UUID, int]:
        """Team: rank over that team alone."""
        return {team: rank for _org, team, rank in self._memberships if team is not None}

    @cached_property
    def _memberships(self) -> list[tuple[uuid.UUID, uuid.UUID | None, int]]:
        if not self.user.is_active or self.user.pk is None:
            return []
        rows = Membership.objects.filter(user=self.user).values_list("organization_id", "team_id", "role")
        return [(organization, team, RANK[role]) for organization, team, role in rows]

    @cached_property
    def has_any_role(self) -> bool:
        return self.is_platform_admin or bool(self._memberships)

    @property
    def organizations(self) -> QuerySet[Organization]:
        """Every organization this person belongs to, wholly or by a team."""
        return self.scope(Organization.objects.all())

    def organizations_with(self, rank: int) -> set[uuid.UUID]:
        """Organizations where this person has at least this rank over everything."""
        return {organization for organization, held in self.ranks.items() if held >= rank}

    def teams_with(self, rank: int) -> set[uuid.UUID]:
        return {team for team, held in self.team_ranks.items() if held >= rank}

    def scope(self, queryset: QuerySet[Row], rank: int | None = None) -> QuerySet[Row]:
        """The rows of this query that this person may see (or, with `rank`, holds that rank over)."""
        if self.is_platform_admin:
            return queryset
        label = queryset.model._meta.label_lower
        if label == "keys.user":
            return queryset.filter(self._colleagues())
        if label == "keys.limit":
            return queryset.filter(self._limits(rank))
        if label not in SCOPES:
            return queryset.none()
        return queryset.filter(self.condition(label, rank))

    def condition(self, label: str, rank: int | None = None) -> Q:
        """What `scope` asks of rows of this model ("usage.usagebucket"), for queries built elsewhere."""
        if self.is_platform_admin:
            return Q()
        rule = SCOPES[label]
        return self._within(rule, rank or rule.see, shared=rule.shared and rank is None)

    def _within(self, rule: Scope, rank: int, *, shared: bool = False) -> Q:
        """The condition on rows of one scope."""
        organizations, teams = self.organizations_with(rank), self.teams_with(rank)
        as_text = rule.organization == "organization_id" and rule.change == 99  # ledger rows keep ids as text
        value = (lambda ids: [str(each) for each in ids]) if as_text else list
        found = Q(**{f"{rule.organization}__in": value(organizations)})
        if rule.team:
            found |= Q(**{f"{rule.team}__in": value(teams)})
        if rule.organization == "id" and rank <= MEMBER:  # an organization is known to those in one of its teams
            found |= Q(id__in=[organization for organization, _team, held in self._memberships if held >= rank])
        if rule.owner and rank <= MEMBER:  # what is owned is seen by who still belongs there
            held_in = {organization for organization, _team, _held in self._memberships}
            found |= Q(**{rule.owner: self.user.pk, f"{rule.organization}__in": value(held_in)})
        if shared:
            found |= Q(**{f"{rule.organization}__isnull": True})
        return found

    def _limits(self, rank: int | None) -> Q:
        organizations, teams = self.organizations_with(rank or VIEWER), self.teams_with(rank or VIEWER)
        return (
            Q(organization_id__in=organizations)
            | Q(team_id__in=teams)
            | Q(team__organization_id__in=organizations)
            | Q(key__organization_id__in=organizations)
            | Q(key__team_id__in=teams)
        )

    def _colleagues(self) -> Q:
        colleagues = Membership.objects.filter(
            Q(organization_id__in=self.organizations_with(ADMIN)) | Q(team_id__in=self.teams_with(ADMIN))
        )
        return Q(pk=self.user.pk) | Q(pk__in=colleagues.values("user_id"))

    def rank_over(self, organization_id: Any, team_id: Any = None) -> int:
        """The highest rank over this organization (and team)."""
        if self.is_platform_admin:
            return OWNER
        over_all = self.ranks.get(organization_id, 0) if organization_id else 0
        return max(over_all, self.team_ranks.get(team_id, 0) if team_id else 0)

    def may(self, verb: Verb, target: Model | type[Model]) -> bool:
        """Whether this person may do this to the row; with a class: to any row of it."""
        if self.is_platform_admin:
            return True
        label = target._meta.label_lower
        if isinstance(target, type):
            return self._may_any(verb, label)
        if verb == "view":
            return self.scope(type(target)._default_manager.all()).filter(pk=target.pk).exists()
        if label == "keys.organization":
            return verb == "change" and self.rank_over(target.pk) >= ADMIN
        if isinstance(target, Team):
            return self.rank_over(target.organization_id, target.pk if verb == "change" else None) >= ADMIN
        if isinstance(target, Membership | Invitation):
            return self.may_grant(target.role, target.organization_id, target.team_id)
        if isinstance(target, VirtualKey):
            rank = self.rank_over(target.organization_id, target.team_id)
            return rank >= ADMIN or (target.owner_id == self.user.pk and rank >= MEMBER and verb != "delete")
        rule = SCOPES.get(label)
        if rule is None or rule.change == 99:
            return False
        managed = self.scope(type(target)._default_manager.all(), rank=rule.change)
        return managed.filter(pk=target.pk).exists()

    def _may_any(self, verb: Verb, label: str) -> bool:
        """Whether a page or an "add" button for this kind of row makes sense at all."""
        highest_over_all = max(self.ranks.values(), default=0)
        highest = max(highest_over_all, *self.team_ranks.values(), 0)
        if label == "keys.user":
            return verb == "view" and highest >= ADMIN
        if label == "keys.limit":
            return highest >= (VIEWER if verb == "view" else ADMIN)
        rule = SCOPES.get(label)
        if rule is None:
            return False
        if verb == "view":
            return (highest if rule.team or rule.organization == "id" else highest_over_all) >= rule.see
        if label == "keys.virtualkey":
            return highest >= (ADMIN if verb == "delete" else MEMBER)
        if label == "keys.organization":
            return verb == "change" and highest >= ADMIN
        if label == "keys.team" and verb in ("add", "delete"):
            return highest_over_all >= ADMIN
        return (highest if rule.team else highest_over_all) >= rule.change

    def may_grant(self, role: str, organization_id: Any, team_id: Any = None) -> bool:
        """Nobody grants above their own level, and below admin nobody grants at all."""
        rank = self.rank_over(organization_id, team_id)
        return rank >= ADMIN and RANK[role] <= rank


def principal_of(request: HttpRequest) -> Principal:
    """The principal of this request, made once."""
    found = getattr(request, "_principal", None)
    if found is None or found.user.pk != request.user.pk:
        found = Principal.of(request.user)
        request._principal = found  # type: ignore[attr-defined]  # kept beside request.user
    return cast(Principal, found)


@receiver(post_delete, sender=Membership)
def membership_ends(instance: Membership, origin: Any = None, **_: Any) -> None:
    deleted = origin.model if isinstance(origin, QuerySet) else type(origin)
    if deleted is not Organization:
        keys_stay(instance.user_id, instance.organization_id)


@receiver(pre_save, sender=Membership)
def membership_moves(instance: Membership, **_: Any) -> None:
    """A membership that becomes one elsewhere, or somebody else's, ends where it was."""
    was = Membership.objects.filter(pk=instance.pk).values_list("user_id", "organization_id").first()
    moved = was is not None and was != (instance.user_id, instance.organization_id)
    instance.__dict__["_ended"] = was if moved else None


@receiver(post_save, sender=Membership)
def membership_moved(instance: Membership, **_: Any) -> None:
    if ended := instance.__dict__.pop("_ended", None):
        keys_stay(*ended)


def keys_stay(user_id: Any, organization_id: Any) -> None:
    """Who leaves an organization leaves the keys they held there: they become service keys, and go on working."""
    if Membership.objects.filter(user_id=user_id, organization_id=organization_id).exists():
        return
    for key in VirtualKey.objects.filter(owner_id=user_id, organization_id=organization_id):
        VirtualKey.objects.filter(pk=key.pk).update(owner=None)
        audit.record(audit.SYSTEM, "key.changed", key, {"owner": [str(user_id), None]})
        notices.announce("keys", str(key.pk))


@receiver([post_save, post_delete], sender=Membership)
def staff_by_membership(instance: Membership, **_: Any) -> None:
    """Members sign in to the admin; somebody without any membership does not."""
    user = User.objects.filter(pk=instance.user_id).first()
    if user is None or user.is_superuser:
        return
    belongs = Membership.objects.filter(user=user).exists()
    if user.is_staff != belongs:
        user.is_staff = belongs
        user.save(update_fields=["is_staff"])
