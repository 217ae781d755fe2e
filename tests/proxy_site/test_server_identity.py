"""The identity of the machine that Gatehouse runs on (a cloud role, default credentials) is the platform's, not a tenant's."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from routing.models import Connection
from tests.proxy_site.admin_world import make_world

pytestmark = pytest.mark.django_db
KINDS = {
    "vertex": {
        "option_project": "p-1",
        "option_location": "global",
        "option_publisher": "google",
        "option_api_version": "v1",
        "option_anthropic_version": "vertex-2023-10-16",
        "credential_adc": "on",
    },
    "bedrock": {"option_region": "us-east-1", "credential_chain": "on"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("role", "may"), [("owner", False), ("admin", False), ("platform", True)])
def test_only_a_platform_admin_lends_the_servers_own_identity(kind: str, role: str, may: bool, settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    world = make_world()
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    given = {"name": "lent", "enabled": "on", "organization": str(world.acme.organization.pk), **KINDS[kind]}
    response = client.post(f"/admin/routing/connection/add/?kind={kind}", given)
    assert Connection.objects.filter(name="lent").exists() == may
    assert ("own identity" in response.content.decode()) != may
