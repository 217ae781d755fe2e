"""The memory of keys: what it answers, when it asks again, and what it never does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.utils import timezone

from keys import issue, lookup, notices, reading, secrets
from keys.context import KeyContext, Problem
from keys.lookup import Lookup
from keys.models import KeySecret, Limit, Organization, VirtualKey
from tests.factories import make_team
from tests.keys.asking import ask

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., Lookup]


class Counted:
    """The real reading, counted; and a gate to hold it at, between what it read and what becomes of it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_the_gate = threading.Event()

    def __call__(self, fingerprints: list[str]) -> Mapping[str, KeyContext | Problem]:
        self.batches.append(list(fingerprints))
        found = reading.load(fingerprints)
        self.at_the_gate.set()
        assert self.gate.wait(20)
        return found

    @property
    def asked(self) -> list[str]:
        return [each for batch in self.batches for each in batch]


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def make(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Look-ups over the real database, more patient than in service: a busy machine must not look like an outage."""
    monkeypatch.setattr(lookup, "PATIENCE", 20.0)
    monkeypatch.setattr(lookup, "PATIENCE_STALE", 20.0)
    made: list[Lookup] = []

    def one(fresh: float = 3600.0, stale: float = 7200.0) -> Lookup:
        made.append(Lookup(load=counted, fresh=fresh, stale=stale))
        return made[-1]

    yield one
    counted.gate.set()
    for each in made:
        each.detach()
        asyncio.run(each.close())


def test_a_known_key_is_answered_from_memory(organization: Organization, make: Make, counted: Counted) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    assert keys.cached(secret, "header", "") is None
    assert ask(secret, keys).context is not None
    found = keys.cached(secret, "bearer", "192.0.2.1")
    assert found is not None
    assert found.context is not None
    assert (found.source, found.address) == ("bearer", "192.0.2.1")
    ask(secret, keys)
    assert len(counted.asked) == 1


@pytest.mark.parametrize("secret", ["", "hunter2", "gate_" + "A" * 46, "x" * 100_000])
def test_what_is_not_a_secret_never_reaches_the_database(make: Make, counted: Counted, secret: str) -> None:
    caller = ask(secret, make())
    assert caller.problem == ("malformed" if secret else "missing")
    assert caller.source == ("header" if secret else "none")
    assert not counted.batches


def test_an_unknown_secret_is_remembered_as_such(make: Make, counted: Counted) -> None:
    secret, keys = secrets.make(), make()
    assert ask(secret, keys).problem == "unknown"
    assert ask(secret, keys).problem == "unknown"
    assert len(counted.asked) == 1


def test_the_memory_of_unknown_secrets_is_bounded(
    make: Make, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "REFUSED_SIZE", 10)
    keys = make()
    flood = [secrets.make() for _ in range(50)]

    async def all_at_once() -> None:
        await asyncio.gather(*(keys.find(each, "header", "") for each in flood))

    asyncio.run(all_at_once())
    assert sum(keys.cached(each, "header", "") is not None for each in flood) == 10
    assert len(counted.batches) < len(flood)  # what waits is read together


def test_calls_that_arrive_together_share_one_look_up(organization: Organization, make: Make, counted: Counted) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make()

    async def all_at_once() -> None:
        callers = await asyncio.gather(*(keys.find(secret, "header", "") for _ in range(50)))
        assert all(caller.context is not None for caller in callers)

    asyncio.run(all_at_once())
    assert len(counted.asked) == 1


def test_a_caller_that_leaves_does_not_take_the_look_up_from_the_others(
    organization: Organization, make: Make, counted: Counted
) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    counted.gate.clear()

    async def one_leaves() -> None:
        leaving, staying = (asyncio.create_task(keys.find(secret, "header", "")) for _ in range(2))
        await asyncio.to_thread(counted.at_the_gate.wait, 20)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        counted.gate.set()
        assert (await staying).context is not None

    asyncio.run(one_leaves())


def test_a_change_takes_effect_with_the_next_call(organization: Organization, make: Make) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    ask(secret, keys)
    VirtualKey.objects.update(allowed_models=["a"])
    assert ask(secret, keys).context.allowed_models is None  # type: ignore[union-attr]  # nobody has said anything
    notices.announce("keys", str(key.pk))
    assert ask(secret, keys).context.allowed_models == ("a",)  # type: ignore[union-attr]  # there is one
    Organization.objects.update(status=Organization.Status.SUSPENDED)
    notices.announce("keys")
    assert ask(secret, keys).context.state == "suspended"  # type: ignore[union-attr]  # there is one


def test_an_announced_change_leaves_other_keys_in_memory(
    organization: Organization, make: Make, counted: Counted
) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    _, other = issue.issue(organization=organization, name="other")
    keys = make()
    ask(secret, keys), ask(other, keys)
    notices.announce("keys", str(key.pk))
    assert keys.cached(secret, "header", "") is None
    assert keys.cached(other, "header", "") is not None


def test_what_was_read_before_a_change_is_not_kept_after_it(
    organization: Organization, make: Make, counted: Counted
) -> None:
    """The reader has its answer, then the key is revoked, then the answer arrives."""
    key, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    counted.gate.clear()
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(ask(secret, keys).problem))
    asking.start()
    assert counted.at_the_gate.wait(20)
    issue.revoke(key)
    counted.gate.set()
    asking.join()
    assert answers == ["revoked"]


def test_a_key_in_use_is_read_again_in_the_background(organization: Organization, make: Make, counted: Counted) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make(fresh=3600.0)
    ask(secret, keys)
    kept = keys._kept[secrets.fingerprint(secret)]
    kept.loaded -= 2000.0  # past half of its time
    counted.at_the_gate.clear()
    VirtualKey.objects.update(allowed_models=["a"])
    assert keys.cached(secret, "header", "") is not None  # served at once
    assert counted.at_the_gate.wait(20)
    asyncio.run(keys.close())
    assert ask(secret, keys).context.allowed_models == ("a",)  # type: ignore[union-attr]  # there is one
    assert len(counted.asked) == 2


def test_an_answer_past_its_time_is_not_served_without_asking(
    organization: Organization, make: Make, counted: Counted
) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make(fresh=0.0)
    ask(secret, keys)
    assert keys.cached(secret, "header", "") is None
    VirtualKey.objects.update(state=VirtualKey.State.REVOKED)
    assert ask(secret, keys).problem == "revoked"


@pytest.mark.parametrize(("field", "of"), [("expires_at", VirtualKey), ("valid_until", KeySecret)])
def test_expiry_is_looked_at_with_every_use(organization: Organization, make: Make, field: str, of: type) -> None:
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    of.objects.update(**{field: timezone.now() + timedelta(seconds=60)})
    assert ask(secret, keys).context is not None
    fingerprint = secrets.fingerprint(secret)
    of.objects.update(**{field: timezone.now() - timedelta(seconds=1)})
    keys.invalidate()
    assert ask(secret, keys).problem == "expired"
    assert isinstance(keys._kept[fingerprint].context, KeyContext)  # extended, it is served again without a notice lost


def test_a_context_carries_the_limits_of_key_team_and_organization(organization: Organization) -> None:
    team = make_team(organization)
    key, secret = issue.issue(organization=organization, name="ci", team=team)
    other, _ = issue.issue(organization=organization, name="other")
    Limit.objects.create(key=key, metric="requests", period="minute", amount=60)
    Limit.objects.create(team=team, metric="spend", period="month", amount=Decimal("12.000000001"), pattern="gemini-*")
    Limit.objects.create(organization=organization, metric="tokens", period="day", amount=1_000_000, hard=False)
    Limit.objects.create(key=other, metric="requests", period="minute", amount=1)
    context = ask(secret).context
    assert context is not None
    assert [(rule.subject, rule.subject_id, rule.metric, rule.amount, rule.hard) for rule in context.limits] == [
        ("key", str(key.pk), "requests", 60, True),
        ("team", str(team.pk), "spend", 12_000_000_001, True),
        ("organization", str(organization.pk), "tokens", 1_000_000, False),
    ]
    assert context.limits[1].pattern == "gemini-*"


def test_the_last_use_is_written_in_bulk_and_only_forward(organization: Organization, make: Make) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    _, unused = issue.issue(organization=organization, name="unused")
    keys = make()
    context = ask(secret, keys).context
    assert context is not None
    for _ in range(3):
        keys.mark_used(context)
    asyncio.run(keys.close())
    first = KeySecret.objects.get(fingerprint=secrets.fingerprint(secret)).last_used_at
    assert first is not None
    assert VirtualKey.objects.get(pk=key.pk).last_used_at == first
    assert KeySecret.objects.get(fingerprint=secrets.fingerprint(unused)).last_used_at is None
    reading.touch({str(key.pk): 0.0}, {context.secret_id: 0.0})
    assert VirtualKey.objects.get(pk=key.pk).last_used_at == first


def test_two_writers_of_last_use_do_not_wait_for_each_other(organization: Organization) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("this run is embedded: SQLite has one writer at a time")
    from django.db import transaction  # noqa: PLC0415 - beside the one use

    key, _ = issue.issue(organization=organization, name="ci")
    with transaction.atomic():
        VirtualKey.objects.select_for_update().get(pk=key.pk)
        writer = threading.Thread(target=reading.touch, args=({str(key.pk): 1e9}, {}))
        writer.start()
        writer.join(20)
        assert not writer.is_alive()
    assert VirtualKey.objects.get(pk=key.pk).last_used_at is None


def test_a_look_up_leaves_no_connection_behind(organization: Organization, make: Make) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("this run is embedded: no server to count connections at")
    _, secret = issue.issue(organization=organization, name="ci")
    keys = make()

    def lent() -> int:
        stats = connection.pool.get_stats()  # type: ignore[attr-defined]  # PostgreSQL's
        return int(stats["pool_size"] - stats["pool_available"])

    before = lent()
    ask(secret, keys)
    assert lent() <= before


def test_a_database_that_hangs_does_not_hold_up_known_keys(
    organization: Organization, make: Make, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, known = issue.issue(organization=organization, name="known")
    _, unknown = issue.issue(organization=organization, name="unknown")
    keys = make()
    assert ask(known, keys).context is not None
    counted.gate.clear()
    monkeypatch.setattr(lookup, "PATIENCE", 0.05)
    monkeypatch.setattr(lookup, "PATIENCE_STALE", 0.05)
    keys.invalidate()
    assert keys.cached(known, "header", "") is None  # once somebody has to find out
    assert ask(known, keys).context is not None
    assert keys.cached(known, "header", "") is not None  # then nobody waits any more
    assert ask(unknown, keys).problem == "unavailable"
    counted.gate.set()
    asyncio.run(keys.close())  # what hung has come back
    monkeypatch.setattr(lookup, "PATIENCE", 20.0)
    assert ask(unknown, keys).context is not None


def test_a_known_key_that_was_announced_as_changed_is_not_served_from_memory_during_an_outage(
    organization: Organization, make: Make, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    keys = make()
    assert ask(secret, keys).context is not None
    counted.gate.clear()
    monkeypatch.setattr(lookup, "PATIENCE", 0.05)
    keys.invalidate(str(key.pk))
    assert ask(secret, keys).problem == "unavailable"


def test_a_known_key_goes_before_a_flood_of_unknown_ones(
    organization: Organization, make: Make, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "WAITING_SIZE", 20)
    monkeypatch.setattr(lookup, "BATCH", 10)
    _, known = issue.issue(organization=organization, name="known")
    keys = make()
    assert ask(known, keys).context is not None
    counted.gate.clear()
    counted.at_the_gate.clear()
    keys.invalidate()

    async def flood() -> None:
        asking = [asyncio.create_task(keys.find(secrets.make(), "header", "")) for _ in range(50)]
        await asyncio.to_thread(counted.at_the_gate.wait, 20)
        waiting = asyncio.create_task(keys.find(known, "header", ""))
        await asyncio.sleep(0)
        counted.gate.set()
        assert (await waiting).context is not None
        await asyncio.gather(*asking)

    before = len(counted.batches)
    asyncio.run(flood())
    assert secrets.fingerprint(known) in [each for batch in counted.batches[before : before + 4] for each in batch]


def test_beyond_a_full_queue_the_answer_is_unavailable(
    make: Make, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "WAITING_SIZE", 5)
    keys = make()
    counted.gate.clear()

    async def flood() -> list[str]:
        asking = [asyncio.create_task(keys.find(secrets.make(), "header", "")) for _ in range(50)]
        await asyncio.to_thread(counted.at_the_gate.wait, 20)
        counted.gate.set()
        return [caller.problem for caller in await asyncio.gather(*asking)]

    problems = asyncio.run(flood())
    assert set(problems) == {"unavailable", "unknown"}
    assert len(counted.asked) < 50
