"""Issue, rotate, disable and revoke virtual keys: what the admin, the commands and `apply` all call.

Every function changes the rows, writes the audit event and announces the change, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from keys import audit, notices, secrets
from keys.audit import Actor
from keys.models import KeySecret, Organization, OutagePolicy, Team, User, VirtualKey
from keys.policy import ACTIONS

LONGEST_GRACE: Final = timedelta(days=30)
DEFAULT_GRACE: Final = timedelta(hours=24)


class IssueError(ValueError):
    """It cannot be done. The message is a sentence for the person who asked; field names the argument at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


def issue(
    *,
    organization: Organization,
    name: str,
    team: Team | None = None,
    owner: User | None = None,
    allowed_models: Iterable[str] | None = None,
    denied_models: Iterable[str] = (),
    scopes: Iterable[str] | None = None,
    networks: Iterable[str] | None = None,
    expires_at: datetime | None = None,
    secret: str | None = None,
    actor: Actor = audit.SYSTEM,
    **fields: Any,
) -> tuple[VirtualKey, str]:
    """A new key and its secret, which is shown once and nowhere kept.

    allowed_models, scopes, networks: None allows all, empty allows nothing. secret: one made before, None: a new one.
    fields: tags, strict_fields, log_bodies, outage_policy, created_by.
    """
    key = VirtualKey(
        organization=organization,
        name=_name(name),
        team=_team(team, organization),
        owner=owner,
        allowed_models=None if allowed_models is None else patterns(allowed_models, "allowed_models"),
        denied_models=patterns(denied_models, "denied_models"),
        scopes=None if scopes is None else known_scopes(scopes),
        networks=None if networks is None else ranges(networks),
        expires_at=_future(expires_at),
        **fields,
    )
    if key.outage_policy not in OutagePolicy.values:
        raise IssueError(f"The outage policy is one of {', '.join(OutagePolicy.values)}.", "outage_policy")
    secret = secrets.make() if secret is None else _given(secret)
    with transaction.atomic():
        notices.lock()
        if VirtualKey.objects.filter(organization=organization, name=key.name).exists():
            raise IssueError(
                f"{organization.name} already has a key named '{key.name}' (a revoked key keeps its name).", "name"
            )
        key.save(force_insert=True)
        _add(key, secret)
        audit.record(actor, "key.created", key, audit.differences(None, key))
        notices.announce("keys", str(key.pk))
    return key, secret


def rotate(key: VirtualKey, grace: timedelta = DEFAULT_GRACE, actor: Actor = audit.SYSTEM) -> str:
    """A new secret for a key. The secrets it has go on for `grace`, none of them longer than it had before."""
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise IssueError(f"The grace time is between 0 and {LONGEST_GRACE.days} days.", "grace")
    secret = secrets.make()
    with transaction.atomic():
        row = _locked(key)
        if row.state == VirtualKey.State.REVOKED:
            raise IssueError(f"The key '{row.name}' is revoked; issue a new one.")
        now = timezone.now()
        until = now + grace
        ending = row.secrets.filter(revoked_at=None).exclude(valid_until__lt=until)
        hints = [each.hint for each in ending]
        if grace:
            ending.update(valid_until=until)
        else:
            row.secrets.filter(revoked_at=None).update(revoked_at=now)
        fresh = _add(row, secret)
        changes = {"hint": [hints, fresh.hint], "valid_until": [None, until]}
        audit.record(actor, "key.rotated", row, changes)
        notices.announce("keys", str(row.pk))
    return secret


def revoke(key: VirtualKey, actor: Actor = audit.SYSTEM) -> None:
    """End a key for good. Again is harmless, and changes nothing."""
    with transaction.atomic():
        row = _locked(key)
        if row.state != VirtualKey.State.REVOKED:
            row.revoked_at = timezone.now()
            _move(row, VirtualKey.State.REVOKED, "key.revoked", actor)
            row.secrets.filter(revoked_at=None).update(revoked_at=row.revoked_at)
    key.state, key.revoked_at = row.state, row.revoked_at


def disable(key: VirtualKey, actor: Actor = audit.SYSTEM) -> None:
    """Refuse the key until it is enabled again."""
    _switch(key, VirtualKey.State.DISABLED, "key.disabled", actor)


def enable(key: VirtualKey, actor: Actor = audit.SYSTEM) -> None:
    _switch(key, VirtualKey.State.ACTIVE, "key.enabled", actor)


def _switch(key: VirtualKey, state: VirtualKey.State, action: str, actor: Actor) -> None:
    with transaction.atomic():
        row = _locked(key)
        if row.state == VirtualKey.State.REVOKED:
            raise IssueError(f"The key '{row.name}' is revoked; that cannot be undone.")
        if row.state != state:
            _move(row, state, action, actor)
    key.state = row.state


def _move(row: VirtualKey, state: VirtualKey.State, action: str, actor: Actor) -> None:
    before, row.state = row.state, state
    row.save(update_fields=["state", "revoked_at"])
    audit.record(actor, action, row, {"state": [before, str(state)]})
    notices.announce("keys", str(row.pk))


def _locked(key: VirtualKey) -> VirtualKey:
    """The row as it is now, with nobody else changing it. The one lock first: see notices.lock."""
    notices.lock()
    return VirtualKey.objects.select_for_update().get(pk=key.pk)


def _add(key: VirtualKey, secret: str) -> KeySecret:
    try:
        with transaction.atomic():
            return KeySecret.objects.create(key=key, fingerprint=secrets.fingerprint(secret), hint=secrets.hint(secret))
    except IntegrityError:
        raise IssueError("This secret is already in use, now or formerly.", "secret") from None


# ---- what is asked of the arguments; the admin's form asks the same


def patterns(given: Iterable[str], field: str = "allowed_models") -> list[str]:
    """Model names or patterns without blanks, doubles and the `models/` that clients write before a name."""
    if isinstance(given, str):
        raise IssueError("Model patterns are a list.", field)
    found = [str(each).strip().removeprefix("models/") for each in given]
    if any(not each or len(each) > 200 for each in found):
        raise IssueError("A model pattern has 1 to 200 characters.", field)
    return list(dict.fromkeys(found))


def known_scopes(given: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(given))
    if unknown := [each for each in found if each not in ACTIONS]:
        raise IssueError(f"'{unknown[0]}' is not an action; there are {', '.join(ACTIONS)}.", "scopes")
    return found


def ranges(given: Iterable[str]) -> list[str]:
    """CIDR ranges; a single address is a range of one."""
    found = []
    for text in given:
        try:
            found.append(str(ip_network(str(text).strip(), strict=False)))
        except ValueError:
            raise IssueError(f"'{text}' is not a network such as 10.0.0.0/8 or 2001:db8::/32.", "networks") from None
    return list(dict.fromkeys(found))


def _name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise IssueError("A key's name has 1 to 100 printable characters.", "name")
    return name


def _team(team: Team | None, organization: Organization) -> Team | None:
    if team is not None and team.organization_id != organization.pk:
        raise IssueError(f"The team {team.name} does not belong to {organization.name}.", "team")
    return team


def _future(expires_at: datetime | None) -> datetime | None:
    if expires_at is not None and expires_at <= timezone.now():
        raise IssueError("The expiry is in the past.", "expires_at")
    return expires_at


def _given(secret: str) -> str:
    if not secrets.well_formed(secret):
        raise IssueError(
            "A secret given from outside must have the form of one made here (gate_ and 46 characters, the last six a "
            "checksum); `manage.py makesecret` prints one.",
            "secret",
        )
    return secret
