"""Whoever a limit binds does not lift it: who changes, deletes and adds the limits of an organization, a team and a key."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from keys.models import Limit
from tests.proxy_site.admin_world import World

pytestmark = pytest.mark.django_db

RIGHTS = [
    ("organization", "platform", True),
    ("organization", "owner", False),
    ("organization", "admin", False),
    ("team", "platform", True),
    ("team", "owner", True),
    ("team", "admin", True),
    ("team", "team_admin", False),
    ("virtualkey", "admin", True),
    ("virtualkey", "team_admin", True),
    ("virtualkey", "team_member", False),
]
NEW = {"metric": "requests", "period": "day", "amount": "7", "pattern": "*"}


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True
    return tenants


def tried(world: World, kind: str, role: str, **row: str) -> None:
    """Save the page of whom the limit binds, with this in its row; a new row has no id."""
    holder: Any = world.acme.rows[f"keys.{kind}"]
    field = "key" if kind == "virtualkey" else kind
    initial = "1" if "id" in row else "0"
    given = {"name": holder.name, "slug": getattr(holder, "slug", ""), "time_zone": "UTC", "status": "active"}
    given |= {"access": "every", "outage_policy": "local", "team": str(getattr(holder, "team_id", "") or "")}
    given |= {"secrets-TOTAL_FORMS": "0", "secrets-INITIAL_FORMS": "0"}
    given |= {"limits-TOTAL_FORMS": "1", "limits-INITIAL_FORMS": initial, f"limits-0-{field}": str(holder.pk)}
    given |= {f"limits-0-{name}": value for name, value in row.items()}
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    client.post(f"/admin/keys/{kind}/{holder.pk}/change/", given)


@pytest.mark.parametrize(("kind", "role", "allowed"), RIGHTS)
def test_limits_are_set_by_those_above_what_they_bind(world: World, kind: str, role: str, allowed: bool) -> None:
    holder: Any = world.acme.rows[f"keys.{kind}"]
    Limit.objects.all().delete()
    subject: dict[str, Any] = {"key" if kind == "virtualkey" else kind: holder}
    limit = Limit.objects.create(**subject, metric="spend", period="month", amount=1, pattern="*")
    same = {"id": str(limit.pk), "metric": "spend", "period": "month", "pattern": "*", "hard": "on"}

    tried(world, kind, role, **{**same, "amount": "99"})
    limit.refresh_from_db()
    assert limit.amount == (99 if allowed else 1)
    tried(world, kind, role, **NEW)
    assert Limit.objects.filter(metric="requests").exists() is allowed
    Limit.objects.filter(metric="requests").delete()
    tried(world, kind, role, **{**same, "amount": "1", "DELETE": "on"})
    assert Limit.objects.filter(pk=limit.pk).exists() is not allowed


def test_an_organizations_admin_reads_its_limits(world: World) -> None:
    Limit.objects.create(organization=world.acme.organization, metric="spend", period="month", amount="123.5")
    client = Client()
    client.force_login(world.people["admin"], backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(f"/admin/keys/organization/{world.acme.organization.pk}/change/").content.decode()
    assert "123.5" in page and 'name="limits-0-amount"' not in page
