"""Everybody sees what is theirs in the admin, and a foreign id is not there: every URL by role by own and foreign."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import URLPattern, URLResolver, reverse

from keys.models import AuditEvent, Limit, Membership, Team, VirtualKey
from keys.principal import Principal
from routing.models import Connection
from tests.factories import make_key
from tests.proxy_site.admin_world import ROLES, World

pytestmark = pytest.mark.django_db
MEMBERS = tuple(role for role in ROLES if role not in ("platform", "nobody"))


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    return tenants


def client_of(world: World, role: str) -> Client:
    client = Client()
    client.force_login(world.people[role], backend="django.contrib.auth.backends.ModelBackend")
    return client


# The URL table


def patterns(entries: list[Any], prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for entry in entries:
        if isinstance(entry, URLResolver):
            yield from patterns(entry.url_patterns, prefix + str(entry.pattern))
        else:
            yield prefix + str(entry.pattern), entry


def object_pages() -> list[tuple[str, str, str]]:
    """(model label, url name, keyword) of every page about one row."""
    found = []
    for route, pattern in patterns(admin.site.get_urls()):
        parts = route.split("/")
        keyword = next((name for name in pattern.pattern.converters if name.endswith("_id")), None)
        if keyword and pattern.name and parts[0] in ("keys", "routing", "usage"):
            found.append((f"{parts[0]}.{parts[1]}", pattern.name, keyword))
    return found


def list_pages() -> list[str]:
    return [
        pattern.name
        for _route, pattern in patterns(admin.site.get_urls())
        if pattern.name
        and not pattern.pattern.converters
        and pattern.name.endswith(("_changelist", "_add", "index", "_json"))
    ]


def test_the_url_table_has_what_this_file_is_about() -> None:
    pages = object_pages()
    assert len(pages) > 40
    assert {label for label, _name, _keyword in pages} >= {
        "keys.virtualkey",
        "routing.connection",
        "usage.requestrecord",
    }
    assert ("keys.virtualkey", "key_secret", "key_id") in pages


def visit(client: Client, name: str, keyword: str, pk: Any) -> int:
    url = reverse(f"admin:{name}", kwargs={keyword: pk})
    response = client.post(url) if name.endswith("_test") else client.get(url)
    return response.status_code


@pytest.mark.parametrize("role", MEMBERS)
def test_a_foreign_row_is_not_there_wherever_own_ones_may_be_seen_and_never_told_from_none(
    world: World, role: str
) -> None:
    client = client_of(world, role)
    wrong = {}
    for label, name, keyword in object_pages():
        own, foreign = (visit(client, name, keyword, tenant.rows[label].pk) for tenant in (world.acme, world.globex))
        unknown = visit(client, name, keyword, uuid.uuid4())
        assert own < 500, name
        if foreign != unknown or foreign not in (403, 404) or (own < 400 and foreign != 404):
            wrong[name] = (own, foreign, unknown)
    assert wrong == {}


def test_a_platform_admin_reaches_every_page_of_both_tenants(world: World) -> None:
    client = client_of(world, "platform")
    quiet = ("_history", "_test")  # no history beside the audit log; tests need an upstream
    for label, name, keyword in object_pages():
        if name.endswith(quiet):
            continue
        for tenant in (world.acme, world.globex):
            status = visit(client, name, keyword, tenant.rows[label].pk)
            read_only = label in ("keys.auditevent", "usage.requestrecord") and name.endswith("_delete")
            assert status == 403 if read_only else status < 400, (name, status)


SEES = {  # which lists each role may open
    "owner": {"organization", "team", "membership", "invitation", "user", "virtualkey", "auditevent", "connection", "publicmodel", "deployment", "requestrecord"},
    "admin": {"organization", "team", "membership", "invitation", "user", "virtualkey", "auditevent", "connection", "publicmodel", "deployment", "requestrecord"},
    "member": {"organization", "team", "virtualkey", "publicmodel", "requestrecord"},
    "viewer": {"organization", "team", "virtualkey", "publicmodel", "requestrecord"},
    "team_admin": {"organization", "team", "membership", "invitation", "user", "virtualkey", "requestrecord"},
    "team_member": {"organization", "team", "virtualkey", "requestrecord"},
}  # fmt: skip


@pytest.mark.parametrize("role", MEMBERS)
def test_lists_open_by_role_and_name_nothing_foreign(world: World, role: str) -> None:
    client = client_of(world, role)
    opened = set()
    for name in list_pages():
        response = client.get(reverse(f"admin:{name}"), follow=True)
        assert response.status_code in (200, 403, 404), (name, response.status_code)
        if response.status_code == 200:
            assert "globex" not in response.content.decode(), name
            if name.endswith("_changelist"):
                opened.add(name.split("_")[1])
    assert opened == SEES[role]


@pytest.mark.parametrize("role", ["owner", "team_admin", "team_member"])
def test_lists_show_what_is_ones_own(world: World, role: str) -> None:
    client = client_of(world, role)
    for name in ("keys_virtualkey", "keys_team", "usage_requestrecord"):
        assert "acme" in client.get(reverse(f"admin:{name}_changelist")).content.decode(), name


def test_somebody_without_a_role_is_sent_to_the_login(world: World) -> None:
    response = client_of(world, "nobody").get("/admin/keys/virtualkey/")
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_filters_and_searches_of_requests_find_nothing_foreign(world: World) -> None:
    client = client_of(world, "owner")
    foreign = world.globex.rows["usage.requestrecord"]
    for query in (
        f"id={foreign.pk}",
        f"organization={world.globex.organization.pk}",
        "model=globex-model",
        f"after={uuid.UUID(int=1)}",
    ):
        assert b"globex" not in client.get(f"/admin/usage/requestrecord/?{query}").content.replace(query.encode(), b"")


def test_the_overview_counts_only_what_is_ones_own(world: World) -> None:
    assert client_of(world, "owner").get("/admin/?range=24h").context["cards"][1]["figure"] == "1"
    assert client_of(world, "platform").get("/admin/?range=24h").context["cards"][1]["figure"] == "2"


# What may be changed


def form(**fields: Any) -> dict[str, Any]:
    empty = {f"{prefix}-{name}": "0" for prefix in ("limits", "secrets") for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
    return {**empty, "expires_at_0": "never", "outage_policy": "local", "access": "every", **fields}


@pytest.mark.parametrize("role", ["platform", "owner", "admin", "member", "team_admin", "team_member"])
def test_who_may_make_keys_makes_them(world: World, role: str) -> None:
    place = f"{world.acme.organization.pk}/{world.acme.team.pk}"
    response = client_of(world, role).post("/admin/keys/virtualkey/add/", form(name="made", belongs_to=place))
    assert response.status_code == 302, response.context["adminform"].form.errors
    key = VirtualKey.objects.get(name="made")
    assert (key.organization, key.team) == (world.acme.organization, world.acme.team)
    assert (key.owner is not None) == (role in ("member", "team_member"))  # theirs, whatever the form says


@pytest.mark.parametrize("role", ["owner", "member", "team_admin"])
def test_nobody_makes_keys_in_a_foreign_organization(world: World, role: str) -> None:
    for place in (f"{world.globex.organization.pk}", f"{world.globex.organization.pk}/{world.globex.team.pk}"):
        response = client_of(world, role).post("/admin/keys/virtualkey/add/", form(name="made", belongs_to=place))
        assert response.status_code == 200
        assert not VirtualKey.objects.filter(name="made").exists()


def test_a_viewer_changes_nothing(world: World) -> None:
    client = client_of(world, "viewer")
    key = world.acme.rows["keys.virtualkey"]
    assert client.post("/admin/keys/virtualkey/add/", form(name="made")).status_code == 403
    for step in ("rotate", "toggle", "revoke"):
        assert client.post(f"/admin/keys/virtualkey/{key.pk}/{step}/", {"typed": key.name}).status_code == 403
    assert client.post(f"/admin/keys/virtualkey/{key.pk}/change/", form(name="renamed")).status_code == 403
    assert VirtualKey.objects.get(pk=key.pk).state == "active"


def test_a_member_manages_their_own_keys_and_no_others(world: World) -> None:
    client = client_of(world, "member")
    mine = make_key(world.acme.organization, "mine", owner=world.people["member"]).key
    others = world.acme.rows["keys.virtualkey"]
    assert client.post(f"/admin/keys/virtualkey/{mine.pk}/toggle/").status_code == 302
    assert client.post(f"/admin/keys/virtualkey/{others.pk}/toggle/").status_code == 403
    assert VirtualKey.objects.get(pk=mine.pk).state == "disabled"
    assert VirtualKey.objects.get(pk=others.pk).state == "active"


def test_a_member_cannot_lift_the_limits_of_their_own_key(world: World) -> None:
    mine = make_key(world.acme.organization, "mine", owner=world.people["member"]).key
    limit = Limit.objects.create(key=mine, metric="spend", period="month", amount=1)
    client_of(world, "member").post(
        f"/admin/keys/virtualkey/{mine.pk}/change/",
        form(name="mine", **{"limits-TOTAL_FORMS": "1", "limits-INITIAL_FORMS": "1", "limits-0-id": str(limit.pk), "limits-0-key": str(mine.pk), "limits-0-DELETE": "on", "limits-0-metric": "spend", "limits-0-period": "month", "limits-0-amount": "99", "limits-0-pattern": "*"}),
    )  # fmt: skip
    limit.refresh_from_db()
    assert limit.amount == 1


def test_bulk_actions_pass_over_what_is_foreign(world: World) -> None:
    own, foreign = world.acme.rows["keys.virtualkey"], world.globex.rows["keys.virtualkey"]
    chosen = {"action": "disable_selected", "_selected_action": [str(own.pk), str(foreign.pk)]}
    client_of(world, "owner").post("/admin/keys/virtualkey/", chosen)
    assert VirtualKey.objects.get(pk=own.pk).state == "disabled"
    assert VirtualKey.objects.get(pk=foreign.pk).state == "active"


def test_a_team_of_another_organization_cannot_be_given_to_a_key(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    given = form(name="acme-key", team=str(world.globex.team.pk))
    assert client_of(world, "platform").post(f"/admin/keys/virtualkey/{key.pk}/change/", given).status_code == 200
    assert VirtualKey.objects.get(pk=key.pk).team == world.acme.team


def invite(world: World, role: str, granted: str, **fields: Any) -> bool:
    given = {
        "email": "new@example.org",
        "organization": str(world.acme.organization.pk),
        "team": "",
        "role": granted,
        **fields,
    }
    client_of(world, role).post("/admin/keys/membership/add/", given)
    return Membership.objects.filter(user__email="new@example.org").exists()


@pytest.mark.parametrize(
    ("role", "granted", "allowed"),
    [
        ("platform", "owner", True),
        ("owner", "owner", True),
        ("admin", "owner", False),
        ("admin", "admin", True),
        ("member", "viewer", False),
        ("viewer", "viewer", False),
        ("team_admin", "viewer", False),  # over the whole organization, of which they have one team
    ],
)
def test_nobody_grants_above_their_own_level(world: World, role: str, granted: str, allowed: bool) -> None:
    assert invite(world, role, granted) is allowed


def test_a_team_admin_grants_within_the_team_alone(world: World) -> None:
    other = Team.objects.create(organization=world.acme.organization, slug="other", name="Other")
    assert not invite(world, "team_admin", "member", team=str(other.pk))
    assert invite(world, "team_admin", "member", team=str(world.acme.team.pk))


def test_an_admin_cannot_raise_themselves(world: World) -> None:
    mine = world.people["admin"].memberships.get()
    client_of(world, "admin").post(f"/admin/keys/membership/{mine.pk}/change/", {"team": "", "role": "owner"})
    mine.refresh_from_db()
    assert mine.role == "admin"


def test_an_owner_cannot_make_anybody_a_platform_admin(world: World) -> None:
    person = world.people["member"]
    response = client_of(world, "owner").post(
        f"/admin/keys/user/{person.pk}/change/", {"email": person.email, "is_superuser": "on"}
    )
    assert response.status_code == 403
    person.refresh_from_db()
    assert not person.is_superuser


def test_a_tenant_makes_connections_for_itself_alone(world: World) -> None:
    client = client_of(world, "admin")
    given = {"name": "theirs", "base_url": "", "credential_api_key": "sk-theirs-0123456789", "enabled": "on"}
    client.post("/admin/routing/connection/add/?kind=openai", {**given, "organization": ""})
    client.post(
        "/admin/routing/connection/add/?kind=openai", {**given, "organization": str(world.globex.organization.pk)}
    )
    assert not Connection.objects.filter(name="theirs").exists()
    client.post(
        "/admin/routing/connection/add/?kind=openai", {**given, "organization": str(world.acme.organization.pk)}
    )
    assert Connection.objects.get(name="theirs").organization == world.acme.organization


def test_a_tenant_cannot_refer_to_the_servers_environment(world: World) -> None:
    given = {"name": "theirs", "base_url": "", "credential_api_key": "ref:GATEHOUSE_CREDENTIAL_X", "enabled": "on"}
    client = client_of(world, "owner")
    client.post(
        "/admin/routing/connection/add/?kind=openai", {**given, "organization": str(world.acme.organization.pk)}
    )
    assert not Connection.objects.filter(name="theirs").exists()


def test_a_tenant_cannot_allow_itself_private_addresses(world: World) -> None:
    given = {"name": "theirs", "base_url": "http://127.0.0.1:9/v1", "allow_private": "on", "enabled": "on"}
    client = client_of(world, "owner")
    client.post(
        "/admin/routing/connection/add/?kind=openai", {**given, "organization": str(world.acme.organization.pk)}
    )
    assert not Connection.objects.filter(name="theirs").exists()


# The principal, and what leaves a trace


def test_members_may_sign_in_and_those_who_left_may_not(world: World) -> None:
    person = world.people["viewer"]
    person.memberships.get().delete()
    person.refresh_from_db()
    assert not person.is_staff
    assert not Principal.of(person).has_any_role


def test_a_blocked_person_has_no_role(world: World) -> None:
    person = world.people["owner"]
    person.is_active = False
    assert not Principal.of(person).has_any_role
    assert not Principal.of(person).organizations.exists()


def test_changes_are_in_the_trail_of_their_tenant_with_who_and_from_where(world: World) -> None:
    place = str(world.acme.organization.pk)
    client_of(world, "owner").post(
        "/admin/keys/virtualkey/add/", form(name="made", belongs_to=place), REMOTE_ADDR="10.9.8.7"
    )
    event = AuditEvent.objects.get(action="key.created", target_name="made")
    assert (event.actor, event.address, event.source) == (world.people["owner"].email, "10.9.8.7", "admin")
    assert event.organization_id == str(world.acme.organization.pk)
