"""Credentials at rest: they open only where they belong, and a moved connection does not take its own along."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from keys.models import Organization, SecondFactor
from routing import credentials
from routing.credentials import CredentialError, open_, open_text, seal, seal_text
from routing.models import Connection
from tests.factories import make_organization, make_person

SECRET = "sk-0123456789abcdefghij"


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def place(**fields: Any) -> Connection:
    return Connection(**{"name": "x", "kind": "openai", "base_url": "https://api.openai.com/v1", **fields})


def test_what_is_sealed_opens_again_and_is_not_to_be_seen_meanwhile() -> None:
    row = place()
    seal(row, {"api_key": f" {SECRET}\n", "unused": ""})
    assert open_(row) == {"api_key": SECRET}
    assert SECRET not in row.sealed_credential
    assert SECRET not in repr(vars(row))
    assert row.credential_hint == "api_key …ghij"
    assert row.credential_set_at is not None
    assert row.sealed_credential.startswith("v1|")


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    assert seal_text("p", "1", "x") != seal_text("p", "1", "x")


@pytest.mark.parametrize(
    ("purpose", "row_id", "more"),
    [
        ("other", "1", {}), ("p", "2", {}), ("p", "1", {"organization": "o2"}), ("p", "1", {"field": "g"}),
        ("p", "1", {"organization": "", "field": "of"}),
    ],
)  # fmt: skip
def test_an_envelope_opens_in_no_other_place(purpose: str, row_id: str, more: dict[str, str]) -> None:
    here = {"organization": "o", "field": "f"}
    sealed = seal_text("p", "1", "x", **here)
    assert open_text("p", "1", sealed, **here) == "x"
    with pytest.raises(CredentialError):
        open_text(purpose, row_id, sealed, **{**here, **more})


def test_a_credential_copied_to_another_row_or_tenant_does_not_open() -> None:
    row = place()
    seal(row, {"api_key": SECRET})
    for thief in (place(sealed_credential=row.sealed_credential), place(pk=row.pk, organization_id=row.pk)):
        thief.sealed_credential = row.sealed_credential
        with pytest.raises(CredentialError, match="another place"):
            open_(thief)


def test_a_damaged_envelope_is_an_error_in_one_sentence() -> None:
    sealed = seal_text("p", "1", "x")
    for damaged in ("", "x", "v1|||", sealed[:-4] + "AAA=", sealed.replace("v1|", "v2|"), sealed + "|"):
        with pytest.raises(CredentialError):
            open_text("p", "1", damaged)


def test_without_a_keyring_the_error_says_what_to_do(settings: Any) -> None:
    for text in ("", " , "):
        settings.GATEHOUSE_ENCRYPTION_KEYS = text
        with pytest.raises(CredentialError, match=r"manage\.py init"):
            seal_text("p", "1", "x")
    for text in ("short", "!" * 44, base64.b64encode(b"x" * 31).decode()):
        settings.GATEHOUSE_ENCRYPTION_KEYS = text
        with pytest.raises(CredentialError, match="32 bytes"):
            seal_text("p", "1", "x")


def test_older_keys_open_and_the_first_one_seals(settings: Any) -> None:
    old, new = key(), key()
    settings.GATEHOUSE_ENCRYPTION_KEYS = old
    sealed = seal_text("p", "1", "x")
    settings.GATEHOUSE_ENCRYPTION_KEYS = f"{new},{old}"
    assert open_text("p", "1", sealed) == "x"
    fresh = seal_text("p", "1", "x")
    settings.GATEHOUSE_ENCRYPTION_KEYS = new
    assert open_text("p", "1", fresh) == "x"
    with pytest.raises(CredentialError, match="not among"):
        open_text("p", "1", sealed)


# ---- references


def test_a_reference_is_kept_as_one_and_read_when_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"GATEHOUSE_CREDENTIAL_OPENAI": "first"}
    monkeypatch.setattr(credentials, "read_reference", values.get)
    row = place()
    seal(row, {"api_key": "ref:GATEHOUSE_CREDENTIAL_OPENAI"})
    assert row.credential_hint == "ref:GATEHOUSE_CREDENTIAL_OPENAI"
    assert open_(row) == {"api_key": "first"}
    values["GATEHOUSE_CREDENTIAL_OPENAI"] = "second"
    assert open_(row) == {"api_key": "second"}
    values.clear()
    with pytest.raises(CredentialError, match="GATEHOUSE_CREDENTIAL_OPENAI is not set"):
        open_(row)


@pytest.mark.parametrize(
    "name",
    ["DATABASE_URL", "SECRET_KEY", "gatehouse_credential_x", "", "GATEHOUSE_CREDENTIAL_/../X", "GATEHOUSE_PEPPER"],
)
def test_nothing_else_in_the_environment_can_be_referred_to(name: str) -> None:
    with pytest.raises(CredentialError, match="GATEHOUSE_CREDENTIAL_"):
        seal(place(), {"api_key": f"ref:{name}"})


def test_a_hint_never_shows_a_short_or_structured_secret() -> None:
    assert credentials.hint({"api_key": "short"}) == "api_key ••••"
    assert credentials.hint({"service_account": '{"private_key": "abcdefghijklmnop"}'}) == "service_account ••••"
    assert credentials.hint({"adc": "true"}) == "adc"


# ---- moving


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.openai.com/v2", True),
        ("https://API.openai.com:443/v1", True),
        ("https://evil.example/v1", False),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com:444/v1", False),
        ("", False),
    ],
)
@pytest.mark.django_db
def test_another_origin_loses_the_credential(url: str, kept: bool) -> None:
    row = place()
    seal(row, {"api_key": SECRET})
    row.save()
    assert credentials.readdress(row, url) is not kept
    assert bool(row.sealed_credential) is kept

    again = Connection.objects.get()
    again.base_url = url
    again.save()  # however it is saved
    assert bool(Connection.objects.get().sealed_credential) is kept
    assert bool(Connection.objects.get().credential_hint) is kept


@pytest.mark.django_db
def test_a_move_with_a_new_credential_keeps_the_new_one() -> None:
    row = place()
    seal(row, {"api_key": SECRET})
    row.save()
    row.base_url = "https://other.example"
    seal(row, {"api_key": "another-secret-of-length"})
    row.save()
    assert open_(Connection.objects.get()) == {"api_key": "another-secret-of-length"}


@pytest.mark.django_db
def test_another_tenant_or_kind_loses_the_credential(organization: Organization) -> None:
    for change in ({"organization": organization}, {"kind": "anthropic"}):
        Connection.objects.all().delete()
        row = place()
        seal(row, {"api_key": SECRET})
        row.save()
        for name, value in change.items():
            setattr(row, name, value)
        row.save()
        assert Connection.objects.get().sealed_credential == ""


# ---- rekey


@pytest.mark.django_db
def test_rekey_seals_everything_under_the_first_key_and_may_be_repeated(settings: Any, capsys: Any) -> None:
    old, new = key(), key()
    settings.GATEHOUSE_ENCRYPTION_KEYS = old
    for name in ("a", "b"):
        row = place(name=name)
        seal(row, {"api_key": f"secret-of-{name}-which-is-long"})
        row.save()
    place(name="c").save()
    settings.GATEHOUSE_ENCRYPTION_KEYS = f"{new},{old}"
    call_command("rekey")
    call_command("rekey")
    said = capsys.readouterr().out
    assert "2 sealed anew, 0 already" in said
    assert "0 sealed anew, 2 already" in said
    settings.GATEHOUSE_ENCRYPTION_KEYS = new
    assert [open_(row)["api_key"] for row in Connection.objects.filter(name__in="ab")] == [
        "secret-of-a-which-is-long",
        "secret-of-b-which-is-long",
    ]


@pytest.mark.django_db
def test_rekey_goes_past_what_it_cannot_open_and_says_so(settings: Any, capsys: Any) -> None:
    old, lost, new = key(), key(), key()
    for name, ring in (("good", old), ("lost", lost)):
        settings.GATEHOUSE_ENCRYPTION_KEYS = ring
        row = place(name=name)
        seal(row, {"api_key": SECRET})
        row.save()
    settings.GATEHOUSE_ENCRYPTION_KEYS = f"{new},{old}"
    with pytest.raises(CommandError, match="lost: The key"):
        call_command("rekey")
    assert "1 sealed anew" in capsys.readouterr().out


@pytest.mark.django_db
def test_rekey_seals_webhooks_and_second_factors_anew_as_well(settings: Any) -> None:
    old, new = key(), key()
    settings.GATEHOUSE_ENCRYPTION_KEYS = old
    organization, person = make_organization("acme"), make_person("somebody")
    organization.alert_webhook_secret = seal_text("webhook", str(organization.pk), "whsec_1")
    organization.save()
    SecondFactor.objects.create(user=person, sealed_secret=seal_text("second factor", str(person.pk), "BASE32"))
    settings.GATEHOUSE_ENCRYPTION_KEYS = f"{new},{old}"
    call_command("rekey")
    settings.GATEHOUSE_ENCRYPTION_KEYS = new
    organization.refresh_from_db()
    assert open_text("webhook", str(organization.pk), organization.alert_webhook_secret) == "whsec_1"
    assert open_text("second factor", str(person.pk), SecondFactor.objects.get().sealed_secret) == "BASE32"
