"""Keys that end soon are told of by mail, a week and a day before, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from keys import reminders
from keys.models import ExpiryReminder, Membership, Organization, VirtualKey
from tests.factories import make_key, make_organization, make_person, make_team

pytestmark = pytest.mark.django_db
OWNER, ADMIN = Membership.Role.OWNER, Membership.Role.ADMIN


@pytest.fixture
def acme(db: None, settings: Any) -> Organization:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # nobody signs in with one here
    organization = make_organization("acme")
    make_person("owner", organization, OWNER)
    return organization


def ending(organization: Organization, days: float, *, age: int = 30, **fields: Any) -> VirtualKey:
    """A key made `age` days ago that ends in so many days."""
    key = make_key(organization, expires_at=timezone.now() + timedelta(days=days), **fields).key
    VirtualKey.objects.filter(pk=key.pk).update(created_at=timezone.now() - timedelta(days=age))
    return key


def heard() -> list[list[str]]:
    return [letter.to for letter in mail.outbox]


def test_each_reminder_comes_once(acme: Organization) -> None:
    key = ending(acme, 6.5)
    now = timezone.now()
    assert [reminders.remind(now + timedelta(days=each)) for each in (0, 1, 5, 5.6, 6, 7)] == [1, 0, 0, 1, 0, 0]
    assert [f"The key {key.name} ends on" in letter.subject for letter in mail.outbox] == [True, True]
    assert f"/admin/keys/virtualkey/{key.pk}/change/" in mail.outbox[0].body


def test_another_expiry_is_told_of_again(acme: Organization) -> None:
    key = ending(acme, 3)
    assert reminders.remind() == 1
    VirtualKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() + timedelta(days=5))
    assert reminders.remind() == 1


@pytest.mark.parametrize(("days", "age"), [(8, 30), (-1, 30), (3, 0)])  # too early, too late, made to be short
def test_nothing_is_told_of_a_key_that_is_not_due(acme: Organization, days: float, age: int) -> None:
    key = ending(acme, 20, age=age)
    VirtualKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() + timedelta(days=days))
    assert reminders.remind() == 0


@pytest.mark.parametrize("state", ["disabled", "revoked"])
def test_nothing_is_told_of_a_key_that_is_off(acme: Organization, state: str) -> None:
    key = ending(acme, 3)
    VirtualKey.objects.filter(pk=key.pk).update(state=state)
    assert reminders.remind() == 0


def test_the_holder_hears_and_no_other(acme: Organization) -> None:
    ending(acme, 3, owner=make_person("holder", acme))
    reminders.remind()
    assert heard() == [["holder@example.org"]]


def test_of_a_service_key_the_admins_hear_and_no_strangers(acme: Organization) -> None:
    team, other = make_team(acme), make_team(acme, "other")
    make_person("lead", acme, ADMIN, team)
    make_person("other-lead", acme, ADMIN, other)
    make_person("member", acme)
    make_person("foreign", make_organization("globex"), OWNER)
    ending(acme, 3, team=team)
    reminders.remind()
    assert heard() == [["lead@example.org", "owner@example.org"]]


def test_of_the_key_of_somebody_blocked_the_admins_hear(acme: Organization) -> None:
    ending(acme, 3, owner=make_person("holder", acme, is_active=False))
    reminders.remind()
    assert heard() == [["owner@example.org"]]


def test_what_could_not_be_mailed_is_tried_again(acme: Organization, settings: Any) -> None:
    ending(acme, 3)
    works = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND, settings.EMAIL_HOST = "django.core.mail.backends.smtp.EmailBackend", "127.0.0.1"
    settings.EMAIL_PORT = 9
    assert reminders.remind() == 0
    assert not ExpiryReminder.objects.exists()
    settings.EMAIL_BACKEND = works
    assert reminders.remind() == 1


def test_without_mail_nothing_is_marked_as_told(acme: Organization, settings: Any) -> None:
    ending(acme, 3)
    settings.EMAIL_BACKEND, settings.EMAIL_HOST = "django.core.mail.backends.smtp.EmailBackend", ""
    assert reminders.remind() == 0
    assert not ExpiryReminder.objects.exists()
