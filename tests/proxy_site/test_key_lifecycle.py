"""Presets, clones, many keys at once, and what becomes of keys when people leave."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keys import issue, presets
from keys.models import AuditEvent, KeySecret, Membership, VirtualKey
from tests.factories import make_key, make_limit, make_organization, make_person
from tests.proxy_site.admin_world import World
from tests.proxy_site.test_tenancy import client_of, form

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(tenants: World, settings: Any) -> World:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    return tenants


def limits(key: VirtualKey) -> set[tuple[str, str, str]]:
    return {(each.metric, f"{each.amount.normalize():f}", each.period) for each in key.limits.all()}


def add(world: World, role: str = "owner", query: str = "", **fields: Any) -> VirtualKey:
    place = f"{world.acme.organization.pk}/{world.acme.team.pk}"
    given = form(name="made", belongs_to=place, **fields)
    response = client_of(world, role).post(f"/admin/keys/virtualkey/add/{query}", given)
    assert response.status_code == 302, response.context["adminform"].form.errors
    return VirtualKey.objects.get(name=fields.get("name", "made"))


# Presets


def test_presets_say_what_they_do() -> None:
    assert dict(presets.CHOICES)["development"] == "Development: 60 requests a minute, 5 USD a day"
    assert dict(presets.CHOICES)["none"] == "No limits"
    assert "4 calls at once" in dict(presets.CHOICES)["ci"]


@pytest.mark.parametrize("role", ["owner", "member"])
def test_a_preset_sets_its_limits(world: World, role: str) -> None:
    key = add(world, role, preset="development")
    assert limits(key) == {("requests", "60", "minute"), ("spend", "5", "day")}
    assert AuditEvent.objects.filter(action="limit.created").count() == 2


def test_no_preset_is_no_limit(world: World) -> None:
    assert limits(add(world)) == set()


def test_what_the_form_says_goes_before_the_preset(world: World) -> None:
    row = {"metric": "spend", "amount": "1", "period": "day", "pattern": "*", "hard": "on"}
    inline = {"limits-TOTAL_FORMS": "1", **{f"limits-0-{name}": value for name, value in row.items()}}
    assert limits(add(world, preset="development", **inline)) == {("requests", "60", "minute"), ("spend", "1", "day")}


def test_an_unknown_preset_is_refused(world: World) -> None:
    place = str(world.acme.organization.pk)
    given = form(name="made", belongs_to=place, preset="boundless")
    assert client_of(world, "owner").post("/admin/keys/virtualkey/add/", given).status_code == 200
    assert not VirtualKey.objects.filter(name="made").exists()


# Clones


def test_a_clone_has_everything_but_name_secret_and_history(world: World) -> None:
    source = make_key(
        world.acme.organization,
        "source",
        team=world.acme.team,
        allowed_models=["a-*"],
        denied_models=["a-b"],
        tags=["x"],
    ).key
    make_limit(source, "spend", 3, period="month", pattern="a-*")
    client = client_of(world, "owner")
    address = client.get(f"/admin/keys/virtualkey/{source.pk}/clone/")["Location"]
    shown = client.get(address).context["adminform"].form
    said = {name: shown[name].value() for name in ("name", "belongs_to", "access", "allowed_models", "tags")}
    assert said == {
        "name": "source copy",
        "belongs_to": f"{world.acme.organization.pk}/{world.acme.team.pk}",
        "access": "these",
        "allowed_models": "a-*",
        "tags": "x",
    }
    made = add(world, query=f"?clone={source.pk}", access="these", allowed_models="a-*", denied_models="a-b")
    assert [(each.metric, each.pattern) for each in made.limits.all()] == [("spend", "a-*")]
    assert not set(made.secrets.values_list("fingerprint")) & set(source.secrets.values_list("fingerprint"))


def test_a_foreign_key_is_not_cloned(world: World) -> None:
    foreign = world.globex.rows["keys.virtualkey"]
    client = client_of(world, "owner")
    assert client.get(f"/admin/keys/virtualkey/{foreign.pk}/clone/").status_code == 404
    assert client.get(f"/admin/keys/virtualkey/add/?clone={foreign.pk}").status_code == 404
    place = str(world.acme.organization.pk)
    given = form(name="made", belongs_to=place)
    assert client.post(f"/admin/keys/virtualkey/add/?clone={foreign.pk}", given).status_code == 404
    assert not VirtualKey.objects.filter(name="made").exists()


def test_a_viewer_clones_nothing(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    assert client_of(world, "viewer").get(f"/admin/keys/virtualkey/{key.pk}/clone/").status_code == 403


# Many at once


def revoke(world: World, role: str, keys: list[Any], **fields: Any) -> Any:
    chosen = {"action": "revoke_selected", "_selected_action": [str(key.pk) for key in keys], **fields}
    return client_of(world, role).post("/admin/keys/virtualkey/", chosen)


def states(*keys: Any) -> list[str]:
    return [VirtualKey.objects.get(pk=key.pk).state for key in keys]


def test_many_keys_are_revoked_after_it_was_typed(world: World) -> None:
    keys = [make_key(world.acme.organization).key for _ in range(2)]
    asked = revoke(world, "owner", keys)
    assert "Type “revoke 2”" in asked.content.decode()
    assert states(*keys) == ["active", "active"]
    assert revoke(world, "owner", keys, typed="yes").status_code == 200
    assert states(*keys) == ["active", "active"]
    assert revoke(world, "owner", keys, typed="revoke 2").status_code == 302
    assert states(*keys) == ["revoked", "revoked"]
    assert AuditEvent.objects.filter(action="key.revoked").count() == 2


def test_foreign_keys_among_many_stay_as_they_are(world: World) -> None:
    own, foreign = world.acme.rows["keys.virtualkey"], world.globex.rows["keys.virtualkey"]
    assert "globex" not in revoke(world, "owner", [own, foreign]).content.decode()
    revoke(world, "owner", [own, foreign], typed="revoke 1")
    assert states(own, foreign) == ["revoked", "active"]


def test_a_viewer_revokes_none_of_many(world: World) -> None:
    own = world.acme.rows["keys.virtualkey"]
    revoke(world, "viewer", [own], typed="revoke 1")
    assert states(own) == ["active"]


# Grace, and leaving


def test_during_grace_the_old_secrets_last_use_is_seen(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    issue.rotate(key, timedelta(hours=1))  # type: ignore[arg-type]  # the world's rows are of any model
    old = KeySecret.objects.get(key=key, valid_until__isnull=False)
    KeySecret.objects.filter(pk=old.pk).update(last_used_at=timezone.now() - timedelta(minutes=7))
    page = client_of(world, "owner").get(f"/admin/keys/virtualkey/{key.pk}/change/").content.decode()
    assert old.hint in page
    assert "7 min ago" in page


def test_who_leaves_an_organization_leaves_the_keys(world: World) -> None:
    person, organization = world.people["member"], world.acme.organization
    there = make_key(organization, "theirs", owner=person).key
    elsewhere = make_person("elsewhere", world.globex.organization)
    Membership.objects.create(user=person, organization=world.globex.organization)
    other = make_key(world.globex.organization, "other", owner=person).key
    client = client_of(world, "member")
    assert client.get(f"/admin/keys/virtualkey/{there.pk}/page/").status_code == 200
    client_of(world, "owner").post(
        f"/admin/keys/membership/{person.memberships.get(organization=organization).pk}/delete/", {"post": "yes"}
    )
    there.refresh_from_db()
    other.refresh_from_db()
    assert (there.owner, there.state) == (None, "active")
    assert other.owner == person
    assert client.get(f"/admin/keys/virtualkey/{there.pk}/page/").status_code == 404
    assert AuditEvent.objects.filter(action="key.changed", target_id=str(there.pk)).exists()
    assert elsewhere.keys.count() == 0


def test_a_membership_moved_elsewhere_leaves_the_keys_where_they_are(world: World) -> None:
    person = world.people["member"]
    key = make_key(world.acme.organization, "theirs", owner=person).key
    membership = person.memberships.get()
    membership.role = "viewer"
    membership.save()
    key.refresh_from_db()
    assert key.owner == person
    membership.organization = world.globex.organization
    membership.save()
    key.refresh_from_db()
    assert (key.owner, key.state) == (None, "active")


@pytest.mark.parametrize(("belongs", "status"), [(True, 200), (False, 404)])
def test_owning_a_key_shows_it_only_to_who_belongs_to_its_organization(
    world: World, belongs: bool, status: int
) -> None:
    person = make_person("half-gone", world.globex.organization)
    if belongs:
        Membership.objects.create(user=person, organization=world.acme.organization, team=world.acme.team)
    key = make_key(world.acme.organization, "theirs", owner=person).key
    world.people["half-gone"] = person
    client = client_of(world, "half-gone")
    assert client.get(f"/admin/keys/virtualkey/{key.pk}/page/").status_code == status
    assert client.get(f"/admin/keys/virtualkey/{key.pk}/change/").status_code == status
    assert len(client.get("/admin/my-keys/").context["rows"]) == int(belongs)


def test_who_leaves_a_team_but_not_the_organization_keeps_their_keys(world: World) -> None:
    person, organization = world.people["member"], world.acme.organization
    key = make_key(organization, "theirs", owner=person).key
    Membership.objects.create(user=person, organization=organization, team=world.acme.team).delete()
    key.refresh_from_db()
    assert key.owner == person


def test_a_person_who_is_deleted_leaves_the_keys(world: World) -> None:
    key = make_key(world.acme.organization, "theirs", owner=world.people["member"]).key
    world.people["member"].delete()
    key.refresh_from_db()
    assert (key.owner, key.state) == (None, "active")


def test_an_organization_that_is_deleted_takes_its_keys_along(world: World) -> None:
    organization = make_organization("closing")
    make_key(organization, "theirs", owner=make_person("last", organization))
    organization.delete()
    assert not VirtualKey.objects.filter(name="theirs").exists()


def test_a_service_key_has_no_owner(world: World) -> None:
    assert add(world, "admin").owner is None
    assert client_of(world, "owner").get("/admin/my-keys/").context["rows"] == []
