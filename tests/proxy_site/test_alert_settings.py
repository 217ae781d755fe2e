"""Who is told of an organization's limits: set, tried and kept from strangers."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache

from keys.models import AuditEvent, Organization
from tests.proxy_site.admin_world import World
from tests.proxy_site.test_tenancy import client_of
from usage import alerts

pytestmark = pytest.mark.django_db
HOOK = "https://hooks.example.org/alerts?channel=7"


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    cache.clear()
    return tenants


def post(world: World, role: str, action: str, **fields: Any) -> Any:
    address = f"/admin/keys/organization/{world.acme.organization.pk}/alerts/"
    return client_of(world, role).post(address, {"action": action, "emails": "", "url": "", "secret": "", **fields})


def fresh(world: World) -> Organization:
    return Organization.objects.get(pk=world.acme.organization.pk)


def test_an_admin_says_who_is_told(world: World) -> None:
    assert post(world, "admin", "save", emails="a@example.org\nb@example.org", url=HOOK).status_code == 302
    organization = fresh(world)
    assert (organization.alert_emails, organization.alert_webhook_url) == ("a@example.org\nb@example.org", HOOK)
    event = AuditEvent.objects.get(action="organization.changed")
    assert event.organization_id == str(organization.pk)
    assert "hooks.example.org" not in str(event.changes)


@pytest.mark.parametrize("role", ["member", "viewer", "team_admin", "team_member"])
def test_nobody_below_an_admin_says_so(world: World, role: str) -> None:
    assert post(world, role, "save", url=HOOK).status_code == 403
    assert fresh(world).alert_webhook_url == ""


def test_a_foreign_organization_is_not_there(world: World) -> None:
    address = f"/admin/keys/organization/{world.globex.organization.pk}/alerts/"
    assert client_of(world, "owner").get(address).status_code == 404
    assert client_of(world, "owner").post(address, {"action": "renew"}).status_code == 404


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("url", "http://127.0.0.1/hook"),
        ("url", "http://169.254.169.254/latest"),
        ("url", "http://10.1.2.3/"),
        ("url", "ftp://hooks.example.org/"),
        ("url", "https://user:pw@hooks.example.org/"),
        ("emails", "not an address"),
        ("secret", "short"),
    ],
)
def test_what_will_not_do_is_refused_at_its_field(world: World, field: str, text: str) -> None:
    response = post(world, "owner", "save", **{field: text})
    assert field in response.context["form"].errors
    assert fresh(world).alert_webhook_url == ""


def test_a_signing_secret_goes_in_sealed_and_does_not_come_out(world: World) -> None:
    post(world, "owner", "save", url=HOOK, secret="my-own-signing-secret")
    organization = fresh(world)
    assert "my-own" not in organization.alert_webhook_secret
    assert alerts.signing_secret(organization) == "my-own-signing-secret"
    page = client_of(world, "owner").get(f"/admin/keys/organization/{organization.pk}/alerts/")
    assert "my-own" not in page.content.decode()
    post(world, "owner", "save", url=HOOK)  # empty: it stays
    assert alerts.signing_secret(fresh(world)) == "my-own-signing-secret"
    assert "my-own" not in str(list(AuditEvent.objects.values_list("changes", flat=True)))


def test_a_new_signing_secret_is_shown_once(world: World) -> None:
    shown = post(world, "owner", "renew").content.decode()
    secret = alerts.signing_secret(fresh(world))
    assert secret in shown
    again = client_of(world, "owner").get(f"/admin/keys/organization/{world.acme.organization.pk}/alerts/")
    assert secret not in again.content.decode()


def test_a_test_alert_is_sent(world: World) -> None:
    post(world, "owner", "save", emails="ops@example.org")
    assert post(world, "owner", "test").status_code == 302
    (letter,) = mail.outbox
    assert letter.to == ["ops@example.org"]
    assert "Test alert of acme organization" in letter.subject


def test_a_test_alert_that_nobody_hears_says_why(world: World) -> None:
    Organization.objects.filter(pk=world.acme.organization.pk).update(alert_webhook_url="http://127.0.0.1:9/")
    client = client_of(world, "owner")
    address = f"/admin/keys/organization/{world.acme.organization.pk}/alerts/"
    page = client.post(address, {"action": "test"}, follow=True).content.decode()
    assert "was not heard" in page
    assert "private network" in page


def test_without_anybody_to_tell_a_test_says_so(world: World) -> None:
    client = client_of(world, "owner")
    address = f"/admin/keys/organization/{world.acme.organization.pk}/alerts/"
    assert "nobody to tell yet" in client.post(address, {"action": "test"}, follow=True).content.decode()
