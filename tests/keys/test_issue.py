"""Issuing, rotating, disabling and revoking a key: what a caller then hears, and what is refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keys import issue, lookup, reading, secrets
from keys.context import Caller, KeyContext
from keys.issue import IssueError
from keys.limits.base import Used
from keys.limits.memory import MemoryLimiter
from keys.models import AuditEvent, KeySecret, Organization, Team, VirtualKey
from tests.factories import make_limit, make_organization, make_team
from tests.keys.asking import ask
from tests.keys.limiting import admit, usage

# A look-up reads in a thread of its own, so it sees only what is committed.
COMMITTED = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


@COMMITTED
def test_an_issued_key_is_known_by_its_secret(organization: Organization) -> None:
    team = make_team(organization)
    key, secret = issue.issue(
        organization=organization, name=" ci ", team=team, allowed_models=["models/gemini-*", "gemini-*"], scopes=["countTokens"],
        networks=["10.1.2.3", "10.9.9.9/8"], denied_models=["*-pro"], tags=["blue"], strict_fields=True,
    )  # fmt: skip
    context = ask(secret).context
    assert context is not None
    assert (context.key_id, context.key_name, context.team, context.organization) == (
        str(key.pk),
        "ci",
        "search",
        "acme",
    )
    assert context.allowed_models == ("gemini-*",)
    assert context.denied_models == ("*-pro",)
    assert context.scopes == {"countTokens"}
    assert [str(each) for each in context.networks or ()] == ["10.1.2.3/32", "10.0.0.0/8"]
    assert (context.tags, context.strict_fields, context.state) == (("blue",), True, "active")


def test_the_secret_is_stored_nowhere(organization: Organization) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    row = KeySecret.objects.get(key=key)
    assert row.fingerprint == secrets.fingerprint(secret)
    stored = [str(vars(each)) for model in (VirtualKey, KeySecret, AuditEvent) for each in model.objects.all()]
    assert not [text for text in stored if secret in text]


def test_a_given_secret_is_taken_when_it_has_the_form_and_is_free(organization: Organization) -> None:
    given = secrets.make()
    assert issue.issue(organization=organization, name="a", secret=given)[1] == given
    with pytest.raises(IssueError, match="already in use"):
        issue.issue(organization=organization, name="b", secret=given)
    with pytest.raises(IssueError, match="makesecret"):
        issue.issue(organization=organization, name="b", secret="hunter2")
    assert not VirtualKey.objects.filter(name="b").exists()


@pytest.mark.parametrize(
    ("arguments", "field", "sentence"),
    [
        ({"name": ""}, "name", "1 to 100"),
        ({"name": "x" * 101}, "name", "1 to 100"),
        ({"name": "a\x00b"}, "name", "printable"),
        ({"allowed_models": [" "]}, "allowed_models", "pattern"),
        ({"allowed_models": "gemini-*"}, "allowed_models", "list"),
        ({"denied_models": ["x" * 201]}, "denied_models", "pattern"),
        ({"scopes": ["generate"]}, "scopes", "'generate' is not an action"),
        ({"networks": ["10.0.0.0/33"]}, "networks", "'10.0.0.0/33' is not a network"),
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at", "past"),
        ({"outage_policy": "maybe"}, "outage_policy", "local, deny"),
    ],
)
def test_a_bad_argument_is_refused_with_its_name(
    organization: Organization, arguments: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(IssueError, match=sentence) as refused:
        issue.issue(organization=organization, **({"name": "ci"} | arguments))
    assert refused.value.field == field
    assert not VirtualKey.objects.exists()


def test_a_name_is_unique_in_its_organization_only(organization: Organization) -> None:
    issue.issue(organization=organization, name="ci")
    issue.issue(organization=make_organization("globex"), name="ci")
    with pytest.raises(IssueError, match="already has a key named 'ci'"):
        issue.issue(organization=organization, name="ci")


def test_a_team_of_another_organization_is_refused(organization: Organization) -> None:
    foreign: Team = make_team(make_organization("globex"))
    with pytest.raises(IssueError, match="does not belong"):
        issue.issue(organization=organization, name="ci", team=foreign)


@COMMITTED
def test_a_rotated_key_goes_on_under_both_secrets_until_the_grace_ends(organization: Organization) -> None:
    key, old = issue.issue(organization=organization, name="ci")
    assert ask(old).context is not None
    new = issue.rotate(key, timedelta(hours=1))
    assert _key_id(ask(old)) == _key_id(ask(new)) == str(key.pk)
    KeySecret.objects.filter(fingerprint=secrets.fingerprint(old)).update(valid_until=timezone.now())
    lookup.invalidate(str(key.pk))
    assert ask(old).problem == "expired"
    assert ask(new).context is not None


async def _used_beside(context: KeyContext, others: KeyContext) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What one context's call used of the limits, as each of the two sees it."""
    limiter = MemoryLimiter()
    limiter.settle(await admit(limiter, context, tokens=5, spend=7), Used(5, 7))
    return await usage(limiter, context), await usage(limiter, others)


def test_another_name_and_another_secret_leave_spend_and_windows_alone(organization: Organization) -> None:
    key, old = issue.issue(organization=organization, name="ci")
    make_limit(key, "spend", 50, period="month")
    make_limit(key, "requests", 5, period="minute")
    before = reading.contexts([secrets.fingerprint(old)])[secrets.fingerprint(old)]
    key.name = "build"
    key.save()
    new = secrets.fingerprint(issue.rotate(key, timedelta(0)))
    after = reading.contexts([new])[new]
    assert isinstance(before, KeyContext)
    assert isinstance(after, KeyContext)
    assert (before.key_name, after.key_name) == ("ci", "build")
    assert asyncio.run(_used_beside(before, after)) == ([(7, 0), (1, 0)], [(7, 0), (1, 0)])
    other, secret = issue.issue(organization=organization, name="other")
    make_limit(other, "spend", 50, period="month")
    foreign = reading.contexts([secrets.fingerprint(secret)])[secrets.fingerprint(secret)]
    assert isinstance(foreign, KeyContext)
    assert asyncio.run(_used_beside(before, foreign))[1] == [(0, 0)], "another key's is not touched"


def test_a_rotation_never_gives_an_older_secret_more_time(organization: Organization) -> None:
    key, first = issue.issue(organization=organization, name="ci")
    issue.rotate(key, timedelta(hours=1))
    ends = KeySecret.objects.get(fingerprint=secrets.fingerprint(first)).valid_until
    issue.rotate(key, timedelta(days=7))
    assert KeySecret.objects.get(fingerprint=secrets.fingerprint(first)).valid_until == ends


@COMMITTED
def test_a_rotation_without_grace_ends_the_old_secrets_at_once(organization: Organization) -> None:
    key, old = issue.issue(organization=organization, name="ci")
    assert ask(old).context is not None
    new = issue.rotate(key, timedelta(0))
    assert ask(old).problem == "revoked"
    assert ask(new).context is not None


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=31)])
def test_a_grace_time_out_of_bounds_is_refused(organization: Organization, grace: timedelta) -> None:
    key, _ = issue.issue(organization=organization, name="ci")
    with pytest.raises(IssueError, match="between 0 and 30 days"):
        issue.rotate(key, grace)
    assert key.secrets.count() == 1


@COMMITTED
def test_a_revoked_key_is_refused_at_once_and_for_good(organization: Organization) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    assert ask(secret).context is not None
    issue.revoke(key)
    assert ask(secret).problem == "revoked"
    events = AuditEvent.objects.count()
    issue.revoke(key)  # again is harmless
    assert AuditEvent.objects.count() == events
    for undo in (issue.enable, issue.disable, issue.rotate):
        with pytest.raises(IssueError, match="revoked"):
            undo(key)


@COMMITTED
def test_a_disabled_key_keeps_its_context_until_it_is_enabled_again(organization: Organization) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    issue.disable(key)
    assert _state(ask(secret)) == "disabled"
    issue.enable(key)
    assert _state(ask(secret)) == "active"


def test_every_change_leaves_an_audit_event(organization: Organization) -> None:
    key, _ = issue.issue(organization=organization, name="ci", allowed_models=["a"])
    issue.disable(key)
    issue.enable(key)
    issue.rotate(key)
    issue.revoke(key)
    events = list(AuditEvent.objects.order_by("id"))
    assert [event.action for event in events] == [
        "key.created", "key.disabled", "key.enabled", "key.rotated", "key.revoked",
    ]  # fmt: skip
    assert {event.target_id for event in events} == {str(key.pk)}
    assert events[0].changes["allowed_models"] == [None, ["a"]]
    assert events[1].changes == {"state": ["active", "disabled"]}


def _key_id(caller: Caller) -> str:
    return caller.context.key_id if caller.context else caller.problem


def _state(caller: Caller) -> str:
    return caller.context.state if caller.context else caller.problem
