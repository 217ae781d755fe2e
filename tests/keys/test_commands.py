"""The commands about keys: what they print, what they refuse and in which words."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from keys import secrets
from keys.management import wording
from keys.models import AuditEvent, KeySecret, Organization, VirtualKey
from tests.factories import make_team
from tests.keys.asking import ask

# A look-up reads in a thread of its own, so it sees only what is committed.
COMMITTED = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


def said(name: str, *arguments: str) -> str:
    out = io.StringIO()
    call_command(name, *arguments, stdout=out)
    return out.getvalue()


def said_json(name: str, *arguments: str) -> Any:
    return json.loads(said(name, *arguments, "--json"))


@COMMITTED
def test_createkey_prints_the_id_and_the_secret(organization: Organization) -> None:
    make_team(organization)
    told = said_json(
        "createkey", "--organization", "acme", "--name", "ci", "--team", "search", "--models", "gemini-*, gpt-4o",
        "--deny", "*-pro", "--scopes", "countTokens", "--networks", "127.0.0.0/8", "--expires", "30d",
    )  # fmt: skip
    assert set(told) == {"id", "secret"}
    context = ask(told["secret"]).context
    assert context is not None
    assert (context.key_id, context.team, context.allowed_models) == (told["id"], "search", ("gemini-*", "gpt-4o"))
    assert (context.denied_models, context.scopes) == (("*-pro",), {"countTokens"})
    ends = VirtualKey.objects.get(pk=told["id"]).expires_at
    assert ends is not None
    assert timedelta(days=29) < ends - timezone.now() <= timedelta(days=30)
    assert AuditEvent.objects.get().source == "command"


def test_createkey_without_models_allows_all_and_with_an_empty_list_none(organization: Organization) -> None:
    said("createkey", "--organization", "acme", "--name", "all")
    said("createkey", "--organization", "acme", "--name", "none", "--models", "")
    assert VirtualKey.objects.get(name="all").allowed_models is None
    assert VirtualKey.objects.get(name="none").allowed_models == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--organization", "globex", "--name", "ci"], "There is no organization 'globex'. There is: acme."),
        (["--organization", "acme", "--name", "ci", "--team", "x"], "Acme has no team 'x'. It has: none yet."),
        (["--organization", "acme", "--name", " "], "A key's name has 1 to 100 printable characters."),
        (["--organization", "acme", "--name", "ci", "--expires", "soon"], "'soon' is not a duration"),
        (["--organization", "acme", "--name", "ci", "--expires", "2020-01-01"], "The expiry is in the past."),
        (["--organization", "acme", "--name", "ci", "--expires", "2027-02-30"], "not a date that exists"),
        (["--organization", "acme", "--name", "ci", "--scopes", "fly"], "'fly' is not an action"),
    ],
)
def test_createkey_says_what_is_wrong(organization: Organization, arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError) as refused:
        said("createkey", *arguments)
    assert sentence in str(refused.value)
    assert not VirtualKey.objects.exists()


def test_listkeys_shows_state_and_hint_but_never_a_secret(organization: Organization) -> None:
    made = said_json("createkey", "--organization", "acme", "--name", "ci")
    old = said_json("createkey", "--organization", "acme", "--name", "old")
    VirtualKey.objects.filter(pk=old["id"]).update(expires_at=timezone.now())
    assert [(row["name"], row["state"]) for row in said_json("listkeys")] == [("ci", "active"), ("old", "expired")]
    assert said_json("listkeys", "--organization", "acme")[0]["hints"] == [secrets.hint(made["secret"])]
    for text in (said("listkeys"), said("listkeys", "--json")):
        assert made["id"] in text
        assert made["secret"] not in text
        assert KeySecret.objects.get(key=made["id"]).fingerprint not in text


@COMMITTED
def test_rotatekey_gives_a_new_secret_and_the_old_one_a_grace_time(organization: Organization) -> None:
    made = said_json("createkey", "--organization", "acme", "--name", "ci")
    told = said_json("rotatekey", made["id"], "--grace", "1h")
    assert told["id"] == made["id"]
    assert ask(told["secret"]).context is not None
    assert ask(made["secret"]).context is not None
    again = said_json("rotatekey", made["id"], "--grace", "0")
    assert ask(made["secret"]).problem == "revoked"
    assert ask(told["secret"]).problem == "revoked"
    assert ask(again["secret"]).context is not None


@COMMITTED
def test_revokekey_ends_a_key_and_is_harmless_again(organization: Organization) -> None:
    made = said_json("createkey", "--organization", "acme", "--name", "ci")
    assert said("revokekey", made["id"]) == "Key ci of Acme is revoked.\n"
    assert ask(made["secret"]).problem == "revoked"
    assert said("revokekey", made["id"]) == "Key ci of Acme was revoked already.\n"
    assert said_json("revokekey", made["id"]) == {"id": made["id"], "state": "revoked"}
    with pytest.raises(CommandError, match="is revoked; issue a new one"):
        said("rotatekey", made["id"])


@pytest.mark.parametrize("name", ["rotatekey", "revokekey"])
@pytest.mark.parametrize("id_", ["ci", "0b6f9c1e-8d3a-4a55-9a55-0d6c2f6f7a11"])
def test_a_key_that_is_not_there_is_named(name: str, id_: str) -> None:
    with pytest.raises(CommandError, match=f"There is no key with the id '{id_}'"):
        said(name, id_)


def test_makesecret_prints_one_that_belongs_to_nobody() -> None:
    assert secrets.well_formed(said("makesecret").strip())
    assert secrets.well_formed(said_json("makesecret")["secret"])
    assert not KeySecret.objects.exists()


def test_auditverify_says_whole_or_where_it_broke(organization: Organization) -> None:
    made = said_json("createkey", "--organization", "acme", "--name", "ci")
    said("revokekey", made["id"])
    assert said("auditverify") == "The audit trail is whole: 2 events.\n"
    assert said_json("auditverify") == {"events": 2, "broken": None}
    last = AuditEvent.objects.order_by("-id")[0]
    AuditEvent.objects.filter(pk=last.pk).update(actor="nobody")
    with pytest.raises(CommandError, match=f"broken at or after event {last.pk}"):
        said("auditverify")
    out = io.StringIO()
    with pytest.raises(CommandError):
        call_command("auditverify", "--json", stdout=out)
    assert json.loads(out.getvalue()) == {"events": 2, "broken": str(last.pk)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", timedelta(0)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(hours=24)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, expected: timedelta) -> None:
    assert wording.duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1.5h", "9999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is not a duration"):
        wording.duration(text)


def test_a_moment_may_be_a_date_or_a_time() -> None:
    assert wording.moment("2030-01-31") == datetime(2030, 1, 31, tzinfo=UTC)
    assert wording.moment("2030-01-31T12:00Z") == datetime(2030, 1, 31, 12, tzinfo=UTC)
    assert wording.moment("2030-01-31T12:00") == datetime(2030, 1, 31, 12, tzinfo=UTC)
