"""The key pages without a browser: the secret is shown once, to one browser, and kept nowhere."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db.models.signals import pre_save
from django.test import Client

from keys.models import AuditEvent, Limit, User, VirtualKey
from tests.factories import IssuedKey

pytestmark = pytest.mark.django_db
SECRET = re.compile(r"gate_[0-9A-Za-z]{46}")


@pytest.fixture
def client(platform_admin: User, settings: Any) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True  # else every client lists every static file first
    found = Client()
    found.force_login(platform_admin, backend="django.contrib.auth.backends.ModelBackend")
    return found


def form(**fields: Any) -> dict[str, Any]:
    empty = {f"{prefix}-{name}": "0" for prefix in ("limits", "secrets") for name in ("TOTAL_FORMS", "INITIAL_FORMS")}
    return {**empty, "expires_at_0": "never", "outage_policy": "local", "access": "every", **fields}


def made(client: Client, organization: Any, **fields: Any) -> Any:
    given = form(name="made", belongs_to=str(organization.pk), **fields)
    return client.post("/admin/keys/virtualkey/add/", given)


def test_a_new_secret_is_shown_once_and_not_cached(client: Client, organization: Any) -> None:
    address = made(client, organization)["Location"]
    first = client.get(address)
    assert SECRET.search(first.content.decode())
    assert "no-store" in first["Cache-Control"]
    assert not SECRET.search(client.get(address).content.decode())


def test_a_new_secret_is_neither_in_the_session_nor_in_the_trail(client: Client, organization: Any) -> None:
    address = made(client, organization)["Location"]
    kept = [session.get_decoded() for session in Session.objects.all()]
    secret = SECRET.search(client.get(address).content.decode())
    assert secret is not None
    assert secret.group() not in json.dumps(kept)
    assert secret.group().encode().hex() not in json.dumps(kept)
    assert secret.group() not in json.dumps(list(AuditEvent.objects.values_list("changes", flat=True)))


def test_another_browser_with_the_same_session_does_not_see_the_secret(client: Client, organization: Any) -> None:
    address = made(client, organization)["Location"]
    other = Client()
    other.cookies["gatehouse"] = client.cookies["gatehouse"].value
    assert not SECRET.search(other.get(address).content.decode())


@pytest.mark.parametrize(
    ("access", "patterns", "stored"),
    [
        ("every", "", None),
        ("every", "gemini-*", None),
        ("none", "gemini-*", []),
        ("these", "a\n\nb-*\na", ["a", "b-*"]),
    ],
)
def test_which_models_is_an_explicit_choice(
    client: Client, organization: Any, access: str, patterns: str, stored: Any
) -> None:
    made(client, organization, access=access, allowed_models=patterns)
    assert VirtualKey.objects.get(name="made").allowed_models == stored


def test_clearing_the_list_of_models_does_not_grant_every_model(client: Client, organization: Any) -> None:
    response = made(client, organization, access="these", allowed_models="")
    assert response.status_code == 200
    assert not VirtualKey.objects.filter(name="made").exists()


def test_saving_a_key_unchanged_changes_nothing(client: Client, issued_key: IssuedKey) -> None:
    key = issued_key.key
    key.allowed_models, key.networks, key.tags, key.scopes = ["a-*"], ["10.0.0.0/8"], ["x"], ["countTokens"]
    key.save()
    page = client.get(f"/admin/keys/virtualkey/{key.pk}/change/")
    shown = page.context["adminform"].form
    given = form(
        name=key.name, access="these", allowed_models="a-*", networks="10.0.0.0/8", tags="x", scopes="countTokens"
    )
    assert shown["access"].value() == "these"
    assert client.post(f"/admin/keys/virtualkey/{key.pk}/change/", given).status_code == 302
    saved = VirtualKey.objects.get(pk=key.pk)
    for name in ("allowed_models", "networks", "tags", "scopes", "denied_models", "expires_at", "state"):
        assert getattr(saved, name) == getattr(key, name), name


@pytest.mark.parametrize(
    ("field", "text"), [("networks", "10.0.0.0/99"), ("networks", "here"), ("allowed_models", "x" * 201)]
)
def test_what_cannot_be_is_refused_at_its_field(client: Client, organization: Any, field: str, text: str) -> None:
    response = made(client, organization, **{"access": "these", "allowed_models": "a", field: text})
    assert field in response.context["adminform"].form.errors


def test_limits_are_made_with_the_key(client: Client, organization: Any) -> None:
    row = {"metric": "spend", "amount": "12.50", "period": "month", "pattern": "*", "hard": "on"}
    made(
        client,
        organization,
        **{"limits-TOTAL_FORMS": "1", **{f"limits-0-{name}": value for name, value in row.items()}},
    )
    limit = Limit.objects.get(key__name="made")
    assert (limit.metric, float(limit.amount), limit.hard) == ("spend", 12.5, True)


@pytest.mark.parametrize("state", ["disabled", "revoked"])
def test_saving_a_key_does_not_bring_back_what_was_ended_meanwhile(
    client: Client, issued_key: IssuedKey, state: str
) -> None:
    key = issued_key.key

    def meanwhile(**_: Any) -> None:
        VirtualKey.objects.filter(pk=key.pk).update(state=state)

    pre_save.connect(meanwhile, sender=VirtualKey)
    try:
        given = form(name="renamed", tags="x")
        assert client.post(f"/admin/keys/virtualkey/{key.pk}/change/", given).status_code == 302
    finally:
        pre_save.disconnect(meanwhile, sender=VirtualKey)
    saved = VirtualKey.objects.get(pk=key.pk)
    assert (saved.name, saved.tags, saved.state) == ("renamed", ["x"], state)
