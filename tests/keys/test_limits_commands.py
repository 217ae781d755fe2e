"""Limits from a shell: what is set, listed and removed, and what is refused in which words."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from keys.models import AuditEvent, ChangeVersion, Limit, Organization, VirtualKey
from tests.factories import make_key, make_team
from tests.keys.asking import ask
from tests.keys.test_commands import said, said_json

pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
def test_createkey_takes_limits_and_its_calls_are_bound_by_them(organization: Organization) -> None:
    told = said_json(
        "createkey", "--organization", "acme", "--name", "ci",
        "--limit", "spend:month:50.00:gemini-*", "--limit", "concurrent:4",
    )  # fmt: skip
    context = ask(told["secret"]).context
    assert context is not None
    assert [(rule.metric, rule.period, rule.amount, rule.pattern, rule.hard) for rule in context.limits] == [
        ("spend", "month", 50 * 10**9, "gemini-*", True),
        ("concurrent", "minute", 4, "*", True),
    ]


def test_createkey_makes_no_key_when_a_limit_is_wrong(organization: Organization) -> None:
    with pytest.raises(CommandError, match="'cost' is not a metric"):
        said("createkey", "--organization", "acme", "--name", "ci", "--limit", "cost:month:50")
    assert not VirtualKey.objects.exists()


def test_setlimit_changes_a_limit_and_keeps_its_id_and_none_removes_it(organization: Organization) -> None:
    key = make_key(organization).key
    first = said_json("setlimit", "requests:minute:60", "--key", str(key.pk))
    second = said_json("setlimit", "requests:minute:90", "--key", str(key.pk), "--soft")
    assert first["id"] == second["id"]
    assert (second["amount"], second["hard"], second["subject_name"]) == ("90", False, key.name)
    assert AuditEvent.objects.filter(action="limit.set").count() == 2
    assert said_json("setlimit", "requests:minute:none", "--key", str(key.pk)) is None
    assert not Limit.objects.exists()


def test_a_limit_that_says_the_same_again_is_neither_audited_nor_announced(organization: Organization) -> None:
    said("setlimit", "spend:day:5", "--organization", "acme")
    version = ChangeVersion.objects.get(topic="keys").version
    said("setlimit", "spend:day:5.00", "--organization", "acme")
    assert AuditEvent.objects.filter(action="limit.set").count() == 1
    assert ChangeVersion.objects.get(topic="keys").version == version


def test_listlimits_shows_those_of_teams_and_keys_with_their_organization(
    organization: Organization, stranger_organization: Organization
) -> None:
    make_team(organization)
    key = make_key(organization, "ci").key
    said("setlimit", "spend:month:50", "--organization", "acme")
    said("setlimit", "tokens:day:1000:gemini-*", "--organization", "acme", "--team", "search")
    said("setlimit", "concurrent:3", "--key", str(key.pk))
    said("setlimit", "spend:lifetime:0.5", "--organization", "globex")
    rows: Any = json.loads(said("listlimits", "--organization", "acme", "--json"))
    assert [(row["subject"], row["metric"], row["period"], row["amount"], row["models"]) for row in rows] == [
        ("organization", "spend", "month", "50", "*"),
        ("team", "tokens", "day", "1000", "gemini-*"),
        ("key", "concurrent", None, "3", "*"),
    ]
    assert "0.5 USD lifetime for *" in said("listlimits")
    assert "3 concurrent calls for *" in said("listlimits", "--key", str(key.pk))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spend", "not a period"),
        ("spend:year:5", "'year' is not a period"),
        ("spend:month", "no amount"),
        ("spend:month:x", "'x' is not an amount"),
        ("spend:month:-1", "between 0 and"),
        ("spend:month:9000001", "between 0 and 9,000,000"),
        ("spend:month:nan", "between 0 and"),
        ("spend:month:0.0000000001", "nine decimals"),
        ("requests:minute:1.5", "whole number"),
        ("requests:minute:none", "no such limit"),
    ],
)
def test_what_is_no_limit_is_refused_with_what_would_be(organization: Organization, text: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("setlimit", text, "--organization", "acme")
    assert not Limit.objects.exists()


def test_setlimit_asks_on_whom(organization: Organization) -> None:
    with pytest.raises(CommandError, match="Say on whom"):
        call_command("setlimit", "requests:minute:1")


def test_the_largest_spend_is_taken_to_the_nano_dollar(organization: Organization) -> None:
    said("setlimit", "spend:month:8999999.999999999", "--organization", "acme")
    assert Limit.objects.get().amount == Decimal("8999999.999999999")
