"""Who changed what: append-only, each row bound to the one before it.

A row's hash is an HMAC, under a key derived from the pepper, over its fields and the hash of the row before. Whoever
can write to the database but does not hold the pepper can neither change a row, nor take one out or put one in,
without `verify` telling. The head of the chain is remembered apart, so that cutting off its end shows, too. Rows
beyond retention are removed from the beginning: the first row left is taken as it stands.
"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from django.conf import settings
from django.db import models, transaction
from django.utils import timezone

from keys import notices
from keys.models import AuditEvent, ChangeVersion
from lib import json
from lib.ids import first_uuid7, uuid7

MASK: Final = "•••"
_SECRET_NAMES: Final = re.compile(
    r"secret|credential|webhook|password|passwd|token$|api_?key|private_key|authorization|cookie|fingerprint|sealed|extra_headers",
    re.IGNORECASE,
)
_SECRET_TEXTS: Final = re.compile(
    r"gate_[0-9A-Za-z]{46}|AIza[\w-]{35}|AKIA[0-9A-Z]{16}|sk-[\w-]{16,}|eyJ[\w-]{10,}\.[\w.-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*"
    r"|(?i:bearer)\s+\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",
    re.DOTALL,
)
_HASHED: Final = (
    "at", "actor_id", "actor", "source", "address", "organization_id", "action",
    "target_type", "target_id", "target_name", "changes", "previous_hash",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the user's id ("" for commands), a name that will still mean something, the door, the IP address."""

    id: str = ""
    name: str = ""
    source: Literal["admin", "api", "command", "system"] = "system"
    address: str = ""


SYSTEM: Final = Actor(name="system")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done, before it has a place in the chain. changes, organization_id: as `record` takes them."""

    action: str
    target: models.Model
    changes: Mapping[str, Any] | None = None
    organization_id: object = None


def record(
    actor: Actor,
    action: str,
    target: models.Model,
    changes: Mapping[str, Any] | None = None,
    organization_id: object = None,
) -> AuditEvent:
    """Append one event, in the caller's transaction. changes: field → [before, after]; secrets are masked here.

    organization_id None: the target's own.
    """
    return record_all(actor, [Entry(action, target, changes, organization_id)])[0]


def record_all(actor: Actor, entries: Sequence[Entry]) -> list[AuditEvent]:
    """Append one event for each, in this order and in the caller's transaction; a thousand cost as many queries as one."""
    with transaction.atomic():
        notices.lock()
        last = AuditEvent.objects.order_by("-id").first()
        events = []
        for entry in entries:
            last = _event(actor, entry, last)
            events.append(last)
        AuditEvent.objects.bulk_create(events)
        if events:
            ChangeVersion.objects.filter(topic=notices.AUDIT).update(version=_head(events[-1].hash))
    return events


def _event(actor: Actor, entry: Entry, last: AuditEvent | None) -> AuditEvent:
    target, organization_id = entry.target, entry.organization_id
    if organization_id is None:
        organization_id = getattr(target, "organization_id", None)
    event = AuditEvent(
        id=_after(last.id if last else None),
        at=timezone.now(),
        actor_id=actor.id,
        actor=_fit(AuditEvent, "actor", actor.name),
        source=actor.source,
        address=actor.address,
        organization_id=str(organization_id or ""),
        action=entry.action,
        target_type=target._meta.model_name or "",
        target_id=str(target.pk),
        target_name=_fit(AuditEvent, "target_name", str(target)),
        changes=masked(entry.changes or {}),
        previous_hash=last.hash if last else "",
    )
    event.hash = digest(event)
    return event


def verify() -> str | None:
    """The id of the first event that is not as it was written, or that does not follow the one before. None: whole.

    When events are missing at the end, the last one that is left; "" when none is.
    """
    head = ChangeVersion.objects.filter(topic=notices.AUDIT).values_list("version", flat=True).first() or 0
    head_seen = head == 0
    previous: AuditEvent | None = None
    for event in AuditEvent.objects.order_by("id").iterator(chunk_size=2000):
        follows = previous is None or event.previous_hash == previous.hash
        if not follows or not hmac.compare_digest(event.hash, digest(event)):
            return str(event.id)
        head_seen = head_seen or _head(event.hash) == head
        previous = event
    if not head_seen or (head == 0 and previous):
        return str(previous.id) if previous else ""
    return None


def prune(before: datetime) -> int:
    """Remove events from before that time, but never the last one: the chain goes on from it. Returns how many."""
    last = AuditEvent.objects.order_by("-id").first()
    if last is None:
        return 0
    end = first_uuid7(int(before.timestamp() * 1000))
    return AuditEvent.objects.filter(id__lt=min(end, last.id)).delete()[0]


def digest(event: AuditEvent) -> str:
    """The hash an event must carry. Times as UTC microseconds, so that every database gives the same bytes."""
    fields = {name: getattr(event, name) for name in _HASHED}
    fields["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    fields["id"] = str(event.id)
    key = hmac.digest(settings.GATEHOUSE_PEPPER.encode(), b"audit chain", "sha256")
    return hmac.digest(key, json.canonical(fields), "sha256").hex()


def differences(
    before: models.Model | None, after: models.Model | None, fields: Iterable[str] | None = None
) -> dict[str, list[Any]]:
    """What changed between two states of a row: field → [before, after]. None stands for "was not" or "is no more".

    Unmasked: `record` masks. fields None: every column but the primary key.
    """
    row = after or before
    if row is None:
        return {}
    names = (
        list(fields)
        if fields is not None
        else [each.attname for each in row._meta.concrete_fields if not each.primary_key]
    )
    pairs = {
        name: [getattr(before, name) if before else None, getattr(after, name) if after else None] for name in names
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def masked(value: Any, name: str = "") -> Any:
    """The same as plain JSON without secrets: by the name they stand under, and by their looks.

    Numbers other than whole ones become text, so that no database changes how they read.
    """
    if value is None or value == "" or isinstance(value, bool):
        return value
    if name and _SECRET_NAMES.search(name):
        return [masked(each, name) for each in value] if isinstance(value, (list, tuple)) else MASK
    match value:
        case Mapping():
            return {_clean(str(each)): masked(found, f"{name}.{each}".split(".")[-1]) for each, found in value.items()}
        case list() | tuple():
            return [masked(each, name) for each in value]
        case set() | frozenset():
            return sorted(str(masked(each, name)) for each in value)
        case int() if abs(value) < 2**53:
            return value
        case datetime():
            return value.astimezone(UTC).isoformat()
        case _:
            return _SECRET_TEXTS.sub(MASK, _clean(str(value)))


def _clean(text: str) -> str:
    """What PostgreSQL and UTF-8 cannot keep is replaced: NUL, lone surrogates."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


def _fit(model: type[models.Model], field: str, text: str) -> str:
    limit = getattr(model._meta.get_field(field), "max_length", None)
    return str(masked(text))[:limit]


def _after(last: uuid.UUID | None) -> uuid.UUID:
    """A UUIDv7 above the last one, also within a millisecond and when the clock was set back: ids give the order."""
    now = uuid7()
    return now if last is None or now.int > last.int else uuid.UUID(int=last.int + 1)


def _head(hash_: str) -> int:
    """The head of the chain as a number that fits a bigint."""
    return int(hash_[:15], 16)
