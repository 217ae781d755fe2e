"""What the look-up asks of the database: contexts for fingerprints, and the note of a last use.

Both run in threads of their own and give their database connection back.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import ip_network
from typing import Any, Final, Literal, cast

from django.db import transaction
from django.db.models import Q

from keys.context import KeyContext, LimitRule, Metric, Network, Period, Problem
from keys.models import KeySecret, Limit, Organization, VirtualKey
from lib.database import own_connection

log = logging.getLogger(__name__)

Subject = Literal["key", "team", "organization"]

NANO: Final = Decimal(1_000_000_000)  # nano-dollars in a dollar
BATCH: Final = 500  # rows in one update


def load(fingerprints: Sequence[str]) -> dict[str, KeyContext | Problem]:
    """The context of each fingerprint's key, or what is wrong with it. A fingerprint that is nobody's is left out."""
    with own_connection():
        return contexts(fingerprints)


def contexts(fingerprints: Sequence[str]) -> dict[str, KeyContext | Problem]:
    """As `load`, by the connection of a request (or of a command) that is under way."""
    rows = list(
        KeySecret.objects.filter(fingerprint__in=fingerprints).select_related(
            "key__organization", "key__team", "key__owner"
        )
    )
    rules = _rules([row.key for row in rows])
    return {row.fingerprint: _answer(row, rules) for row in rows}


@dataclass(frozen=True, slots=True)
class Limited:
    """An organization with limits somewhere in it, and all of them."""

    organization_id: str
    organization: str
    time_zone: str
    rules: tuple[LimitRule, ...]


def limited(organization: str = "") -> list[Limited]:
    """Every organization's limits, those of its teams and keys included; of one organization, if its slug is given."""
    with own_connection():
        rules: defaultdict[Organization, list[LimitRule]] = defaultdict(list)
        related = ("organization", "team__organization", "key__organization")
        for limit in Limit.objects.select_related(*related).order_by("created_at", "pk"):
            holder = limit.organization or (limit.team or limit.key).organization  # type: ignore[union-attr]  # one is set
            if not organization or holder.slug == organization:
                rules[holder].append(rule_of(limit))
    return [Limited(str(each.pk), each.slug, each.time_zone, tuple(found)) for each, found in rules.items()]


def touch(keys: Mapping[str, float], secrets: Mapping[str, float]) -> None:
    """Set last_used_at (Unix seconds) of keys and secrets, by id. Only ever forward."""
    with own_connection():
        _touch(VirtualKey, keys)
        _touch(KeySecret, secrets)


def _touch(model: type[VirtualKey] | type[KeySecret], used: Mapping[str, float]) -> None:
    """In order of id, past rows that another process is writing just now: no two writers wait for each other."""
    ids = sorted(used)
    for start in range(0, len(ids), BATCH):
        with transaction.atomic():
            rows: list[Any] = list(
                model.objects.select_for_update(skip_locked=True, no_key=True)
                .filter(pk__in=ids[start : start + BATCH])
                .order_by("pk")
                .only("pk", "last_used_at")
            )
            for row in rows:
                at = datetime.fromtimestamp(used[str(row.pk)], UTC)
                row.last_used_at = max(at, row.last_used_at or at)
            model.objects.bulk_update(rows, ["last_used_at"])


def _answer(secret: KeySecret, rules: Mapping[tuple[Subject, str], list[LimitRule]]) -> KeyContext | Problem:
    key = secret.key
    if key.state == VirtualKey.State.REVOKED or secret.revoked_at is not None:
        return "revoked"
    return _context(secret, key, rules)


def _context(secret: KeySecret, key: VirtualKey, rules: Mapping[tuple[Subject, str], list[LimitRule]]) -> KeyContext:
    organization = key.organization
    suspended = organization.status == Organization.Status.SUSPENDED
    subjects: list[tuple[Subject, str]] = [
        ("key", str(key.pk)),
        ("team", str(key.team_id)),
        ("organization", str(organization.pk)),
    ]
    return KeyContext(
        key_id=str(key.pk),
        key_name=key.name,
        secret_id=str(secret.pk),
        organization_id=str(organization.pk),
        organization=organization.slug,
        team_id=str(key.team.pk) if key.team else None,
        team=key.team.slug if key.team else None,
        owner_id=str(key.owner.pk) if key.owner else None,
        owner=key.owner.email if key.owner else None,
        state="suspended" if suspended else cast("Literal['active', 'disabled']", key.state),
        allowed_models=_names(key.allowed_models),
        denied_models=_names(key.denied_models) or (),
        scopes=None if key.scopes is None else frozenset(_names(key.scopes) or ()),
        networks=_networks(key),
        expires_at=key.expires_at.timestamp() if key.expires_at else None,
        secret_until=secret.valid_until.timestamp() if secret.valid_until else None,
        strict_fields=key.strict_fields,
        log_bodies=key.log_bodies,
        outage_policy=cast("Literal['local', 'deny']", key.outage_policy),
        time_zone=organization.time_zone,
        limits=tuple(rule for subject in subjects for rule in rules.get(subject, ())),
        tags=_names(key.tags) or (),
    )


def _rules(keys: Sequence[VirtualKey]) -> dict[tuple[Subject, str], list[LimitRule]]:
    """Every limit that may bind these keys, by whom it is on."""
    found: defaultdict[tuple[Subject, str], list[LimitRule]] = defaultdict(list)
    if not keys:
        return found
    limits = Limit.objects.filter(
        Q(key__in=[key.pk for key in keys])
        | Q(team__in={key.team_id for key in keys if key.team_id})
        | Q(organization__in={key.organization_id for key in keys})
    )
    for limit in limits.order_by("created_at", "pk"):
        rule = rule_of(limit)
        found[(rule.subject, rule.subject_id)].append(rule)
    return found


def rule_of(limit: Limit) -> LimitRule:
    """A limit as calls are checked by it."""
    subject, subject_id = next(
        (name, found)
        for name, found in (("key", limit.key_id), ("team", limit.team_id), ("organization", limit.organization_id))
        if found is not None
    )
    return LimitRule(
        id=str(limit.pk),
        subject=cast("Subject", subject),
        subject_id=str(subject_id),
        metric=cast("Metric", limit.metric),
        period=cast("Period", limit.period),
        amount=int(limit.amount * NANO) if limit.metric == Limit.Metric.SPEND else int(limit.amount),
        pattern=limit.pattern,
        hard=limit.hard,
    )


def _names(stored: list[str] | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(str(name) for name in stored)


def _networks(key: VirtualKey) -> tuple[Network, ...] | None:
    """A range that cannot be read allows nobody: a list that came to be empty this way still refuses."""
    if key.networks is None:
        return None
    networks: list[Network] = []
    for text in key.networks:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:
            log.error("Key %s: %r is not a network; nobody is let in by it.", key.pk, text)
    return tuple(networks)
