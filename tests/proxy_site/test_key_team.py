"""A key stays in its team: the team's limits bind it, and its admin cannot take it out of their reach."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from keys.models import VirtualKey
from tests.proxy_site.admin_world import make_world

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("role", "moves"), [("team_admin", False), ("admin", True)])
def test_only_who_administers_the_organization_moves_a_key_out_of_its_team(
    role: str, moves: bool, settings: Any
) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    world = make_world()
    key = VirtualKey.objects.get(organization=world.acme.organization, team=world.acme.team)
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    given = {"name": "renamed", "team": "", "access": "every", "outage_policy": "local"}
    for prefix in ("limits", "secrets"):
        given |= {f"{prefix}-TOTAL_FORMS": "0", f"{prefix}-INITIAL_FORMS": "0"}
    client.post(f"/admin/keys/virtualkey/{key.pk}/change/", given)
    key.refresh_from_db()
    assert (key.name, key.team is None) == ("renamed", moves)
