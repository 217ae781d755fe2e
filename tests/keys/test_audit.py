"""The audit trail: what it keeps, what it hides, and that nobody can change it unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from keys import audit, secrets
from keys.audit import Actor
from keys.models import AuditEvent, ChangeVersion, Organization
from lib.ids import uuid7

pytestmark = pytest.mark.django_db

ANNA = Actor(id="1", name="anna@example.org", source="admin", address="192.0.2.1")


def write(target: Organization, count: int = 1) -> list[AuditEvent]:
    return [audit.record(ANNA, "organization.changed", target, {"name": ["a", str(each)]}) for each in range(count)]


def test_an_event_says_who_did_what_to_which_object(organization: Organization) -> None:
    event = audit.record(ANNA, "organization.changed", organization, {"name": ["Old", "New"]}, organization.pk)
    event.refresh_from_db()
    assert (event.actor_id, event.actor, event.source, event.address) == ("1", "anna@example.org", "admin", "192.0.2.1")
    assert (event.action, event.target_type, event.target_id) == (
        "organization.changed",
        "organization",
        str(organization.pk),
    )
    assert event.target_name == organization.name
    assert event.organization_id == str(organization.pk)
    assert event.changes == {"name": ["Old", "New"]}


def test_an_untouched_trail_is_whole(organization: Organization) -> None:
    assert audit.verify() is None
    write(organization, 5)
    assert audit.verify() is None


def test_every_kind_of_value_reads_back_as_it_was_hashed(organization: Organization) -> None:
    values = {
        "text": ["\x00\ud800é\u2028", ""],
        "number": [1.5, 1e300],
        "money": [Decimal("12.10"), None],
        "large": [2**70, -(2**53)],
        "at": [timezone.now(), datetime(2026, 1, 1, tzinfo=UTC)],
        "id": [UUID(int=1), True],
        "nested": [{"b": [1, {"a": 2}], "a": 1}, (1, 2)],
        "set": [frozenset({"b", "a"}), set()],
    }
    audit.record(ANNA, "x.changed", organization, values)
    assert audit.verify() is None


CHANGES: list[tuple[str, Any]] = [
    ("actor", "bert@example.org"),
    ("actor_id", "2"),
    ("address", "192.0.2.2"),
    ("source", "system"),
    ("organization_id", "other"),
    ("action", "organization.created"),
    ("target_type", "team"),
    ("target_id", "other"),
    ("target_name", "other"),
    ("changes", {"name": ["a", "z"]}),
    ("at", datetime(2020, 1, 1, tzinfo=UTC)),
    ("hash", "0" * 64),
    ("previous_hash", "0" * 64),
]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=[field for field, _ in CHANGES])
def test_a_changed_field_is_found(organization: Organization, field: str, value: object) -> None:
    events = write(organization, 3)
    AuditEvent.objects.filter(pk=events[1].pk).update(**{field: value})
    assert audit.verify() == str(events[1].pk)


def removed(events: list[AuditEvent], at: int) -> None:
    AuditEvent.objects.filter(pk=events[at].pk).delete()


def inserted(events: list[AuditEvent], _: int) -> None:
    """With a right hash over its fields, as one who knows the pepper but not the neighbours could write it."""
    event = AuditEvent(id=UUID(int=events[1].id.int + 1), action="x", previous_hash=events[1].hash, source="api")
    event.hash = audit.digest(event)
    event.save()


def moved(events: list[AuditEvent], at: int) -> None:
    AuditEvent.objects.filter(pk=events[at].pk).update(id=uuid7())


@pytest.mark.parametrize(("tamper", "at", "found"), [(removed, 1, 2), (removed, 3, 2), (inserted, 1, 2), (moved, 1, 2)])
def test_a_removed_inserted_or_moved_event_is_found(
    organization: Organization, tamper: Callable[[list[AuditEvent], int], None], at: int, found: int
) -> None:
    events = write(organization, 4)
    tamper(events, at)
    assert audit.verify() == str(events[found].pk)


def test_a_trail_that_is_gone_altogether_is_found(organization: Organization) -> None:
    write(organization, 2)
    AuditEvent.objects.all().delete()
    assert audit.verify() == ""


def test_a_trail_whose_head_was_forgotten_is_found(organization: Organization) -> None:
    events = write(organization, 2)
    ChangeVersion.objects.all().delete()
    assert audit.verify() == str(events[1].pk)


def test_a_trail_cannot_be_written_anew_without_the_pepper(organization: Organization, settings: Any) -> None:
    pepper, settings.GATEHOUSE_PEPPER = settings.GATEHOUSE_PEPPER, "a guess"
    events = write(organization, 2)
    assert audit.verify() is None
    settings.GATEHOUSE_PEPPER = pepper
    assert audit.verify() == str(events[0].pk)


def test_old_events_may_go_and_the_rest_stays_whole(organization: Organization) -> None:
    events = write(organization, 3)
    assert audit.prune(timezone.now() - timedelta(days=1)) == 0
    assert audit.prune(timezone.now() + timedelta(days=1)) == 2
    assert list(AuditEvent.objects.values_list("pk", flat=True)) == [events[2].pk]
    write(organization)
    assert audit.verify() is None


@pytest.mark.django_db(transaction=True)
def test_events_of_many_writers_form_one_chain(organization: Organization) -> None:
    def writer() -> None:
        try:
            write(organization, 5)
        finally:
            connection.close()

    writers = [threading.Thread(target=writer) for _ in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert AuditEvent.objects.count() == 20
    assert audit.verify() is None


SECRET = secrets.make()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"password": ["a", "b"]}, {"password": ["•••", "•••"]}),
        ({"sealed_credential": ["", "v1|x"]}, {"sealed_credential": ["", "•••"]}),
        ({"alert_webhook_secret": [None, "s"]}, {"alert_webhook_secret": [None, "•••"]}),
        ({"credential": [None, {"api_key": "x"}]}, {"credential": [None, "•••"]}),
        ({"options": [{}, {"api_key": "x", "region": "eu"}]}, {"options": [{}, {"api_key": "•••", "region": "eu"}]}),
        ({"extra_headers": [{}, {"X-Auth": "x"}]}, {"extra_headers": ["•••", "•••"]}),
        ({"name": ["a", f"key {SECRET}!"]}, {"name": ["a", "key •••!"]}),
        ({"note": ["", "Bearer abc.def"]}, {"note": ["", "•••"]}),
        ({"base_url": ["", "https://u:p@example.org/v1"]}, {"base_url": ["", "https://•••@example.org/v1"]}),
        ({"tokens": [1, 2], "max_tokens": [3, 4]}, {"tokens": [1, 2], "max_tokens": [3, 4]}),
        ({"hint": ["gate_…wxyz", "gate_…abcd"]}, {"hint": ["gate_…wxyz", "gate_…abcd"]}),
        ({"name": ["acme", "Acme"]}, {"name": ["acme", "Acme"]}),
    ],
)
def test_secrets_are_masked_and_the_rest_is_not(
    organization: Organization, changes: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert audit.record(ANNA, "x.changed", organization, changes).changes == kept


def test_differences_name_the_fields_that_changed(organization: Organization) -> None:
    before = Organization.objects.get(pk=organization.pk)
    organization.name = "New"
    assert audit.differences(before, organization) == {"name": [before.name, "New"]}
    assert audit.differences(before, before) == {}
    assert audit.differences(None, organization, ["name"]) == {"name": [None, "New"]}
    assert audit.differences(before, None, ["name"]) == {"name": [before.name, None]}
