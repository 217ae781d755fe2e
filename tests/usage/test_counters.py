"""Counters of limits begin with what the ledger knows, and are mended by it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from keys import reading
from keys.context import LimitRule
from keys.limits import seeding
from keys.limits.base import Used
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from keys.limits.windows import place
from keys.models import Organization
from lib import json as lines
from lib.ids import uuid7
from lib.store import Store
from tests.factories import make_key, make_limit, make_team
from tests.keys.limiting import admit, key_with, usage
from tests.usage.events import event
from usage import counters, ledger, records

pytestmark = pytest.mark.django_db(transaction=True)


def record(**given: Any) -> None:
    """A call that an upstream answered, in the ledger."""
    started = int(given.pop("at", time.time()) * 1000)
    values = {"deployment_id": "d-1", "started_ms": started, "call_id": str(uuid7(started)), **given}
    ledger.record([records.row(lines.loads(lines.dumps(event(**values))))])


def rule(organization: Organization, metric: str, period: str, **given: Any) -> LimitRule:
    values: dict[str, Any] = {"subject": "organization", "subject_id": str(organization.pk), "amount": 10**12}
    return LimitRule(id=str(uuid7()), metric=metric, period=period, **(values | given))  # type: ignore[arg-type]  # short words for tests


def used(organization: Organization, *rules: LimitRule) -> list[int]:
    now = time.time()
    asked = [(each, place(each, now, organization.time_zone).since(now)) for each in rules]
    return counters.used(str(organization.pk), asked)


def test_the_ledger_knows_requests_tokens_and_spend_by_model(organization: Organization) -> None:
    whose = str(organization.pk)
    record(organization_id=whose, cost_nano=700)
    record(organization_id=whose, cost_nano=30, model="gpt-4o")
    record(organization_id="another", cost_nano=5)
    of_all = [rule(organization, metric, "month") for metric in ("requests", "tokens", "spend")]
    assert used(organization, *of_all) == [2, 240, 730]
    assert used(organization, rule(organization, "spend", "minute"), rule(organization, "requests", "hour")) == [730, 2]
    assert used(organization, rule(organization, "spend", "day", pattern="gemini-*")) == [700]
    assert used(organization, rule(organization, "concurrent", "minute")) == [0]


def test_refused_calls_and_other_keys_are_not_counted(organization: Organization) -> None:
    whose = str(organization.pk)
    record(organization_id=whose, status="RESOURCE_EXHAUSTED", http_status=429, deployment_id="", cost_nano=0)
    record(organization_id=whose, status="UNAVAILABLE", http_status=503, cost_nano=0)
    record(organization_id=whose, key_id="key-2", team_id="team-2")
    on_key = rule(organization, "requests", "day", subject="key", subject_id="key-1")
    on_team = rule(organization, "requests", "day", subject="team", subject_id="team-2")
    assert used(organization, on_key, on_team, rule(organization, "requests", "minute")) == [1, 1, 2]


def test_a_day_begins_at_local_midnight(organization: Organization) -> None:
    organization.time_zone = "Asia/Kathmandu"  # 5:45 ahead
    today = rule(organization, "spend", "day")
    begins = place(today, time.time(), organization.time_zone).span.begins
    record(organization_id=str(organization.pk), cost_nano=1, at=begins - 1)
    record(organization_id=str(organization.pk), cost_nano=10, at=begins + 1)
    assert used(organization, today, rule(organization, "spend", "lifetime")) == [10, 11]


def test_the_limits_of_an_organization_are_those_of_its_teams_and_keys_too(organization: Organization) -> None:
    make_limit(organization, "spend", 5)
    make_limit(make_team(organization), "requests", 5)
    make_limit(make_key(organization).key, "tokens", 5)
    (found,) = reading.limited(organization.slug)
    assert [each.subject for each in found.rules] == ["organization", "team", "key"]
    assert reading.limited("nobody") == []


@asynccontextmanager
async def redis_limiter(url: str) -> AsyncIterator[RedisLimiter]:
    store = Store()
    await store.open(url)
    seeding.use(counters.rebuild)
    try:
        yield RedisLimiter(store)
    finally:
        seeding.use(None)
        await store.close()


def reconcile(*options: str) -> list[dict[str, Any]]:
    out = StringIO()
    call_command("reconcile", "--json", "--lag", "0", *options, stdout=out)
    found: list[dict[str, Any]] = json.loads(out.getvalue())
    return found


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_reconcile_shows_drift_and_repairs_it(organization: Organization, redis_url: str) -> None:
    make_limit(organization, "spend", 5, period="month")
    make_limit(organization, "requests", 500, period="minute")
    (limited,) = reading.limited(organization.slug)
    key = key_with(*limited.rules, organization=limited.organization_id)
    record(organization_id=limited.organization_id, cost_nano=100)

    async def more(amount: int) -> None:
        async with redis_limiter(redis_url) as limiter:
            await limiter.correct(key.limits, [amount, 0], time.time(), "UTC", key.organization_id)

    (agreed,) = reconcile()
    assert (agreed["used"], agreed["ledger"], agreed["drift"]) == (100, 100, 0)
    for drift in (40, -60):
        run(more(drift))
        (shown,) = reconcile()
        assert (shown["drift"], shown["repaired"]) == (drift, False)
        (repaired,) = reconcile("--repair")
        assert (repaired["drift"], repaired["repaired"]) == (drift, True)
        (after,) = reconcile()
        assert (after["used"], after["drift"]) == (100, 0)


def test_calls_under_way_are_no_drift(organization: Organization, redis_url: str) -> None:
    make_limit(organization, "spend", 5, period="month")
    (limited,) = reading.limited(organization.slug)
    key = key_with(*limited.rules, organization=limited.organization_id)

    async def call() -> None:
        async with redis_limiter(redis_url) as limiter:
            hold = await admit(limiter, key, time.time(), spend=900)
            (found,) = await counters.compare(limiter, limited, lag=0, repair=True)
            assert (found.used, found.held, found.drift) == (0, 900, 0)
            limiter.settle(hold, Used(0, 300))
            assert await usage(limiter, key, time.time()) == [(300, 0)]

    run(call())


def test_what_a_counter_lacks_is_found_also_while_calls_go_on(organization: Organization, redis_url: str) -> None:
    """The ledger is always a little late: after each batch it is nearly level, and then the counter shows its lack."""
    make_limit(organization, "spend", 5, period="month")
    (limited,) = reading.limited(organization.slug)
    key = key_with(*limited.rules, organization=limited.organization_id)
    record(organization_id=limited.organization_id, cost_nano=1_000)

    async def calls(limiter: RedisLimiter, ended: asyncio.Event) -> None:
        """Each is settled at once, and in the ledger, with those before it, at every third."""
        waiting = 0
        while not ended.is_set():
            limiter.settle(await admit(limiter, key, time.time(), spend=9), Used(0, 7))
            waiting += 1
            if waiting == 3:
                await asyncio.to_thread(record, organization_id=limited.organization_id, cost_nano=21)
                waiting = 0
            await asyncio.sleep(0.02)

    async def compare() -> None:
        async with redis_limiter(redis_url) as limiter:
            await usage(limiter, key, time.time())
            await limiter.correct(key.limits, [-400], time.time(), "UTC", key.organization_id)
            ended = asyncio.Event()
            going_on = asyncio.create_task(calls(limiter, ended))
            (found,) = await counters.compare(limiter, limited, lag=0.5)
            ended.set()
            await going_on
            assert -400 <= found.drift < -300

    run(compare())


def test_counters_are_lowered_when_all_has_been_told_and_later_after_a_death() -> None:
    returned, died, now = counters.Reconciling(), counters.Reconciling(), time.monotonic()
    returned.doubt(died=False)
    died.doubt(died=True)
    died.doubt(died=False)  # a return does not hasten it
    assert [returned.certain(now + seconds) for seconds in (5, 12, 70)] == [False, True, True]
    assert [died.certain(now + seconds) for seconds in (5, 12, 70)] == [False, False, True]
    early = 0.1  # seconds; a timer may ring before its time
    assert [returned.certain(now + due - early) for due in counters.AFTER_DOUBT] == [False, True, True]
    assert [died.certain(now + due - early) for due in counters.AFTER_DOUBT] == [False, False, True]


def test_the_command_says_why_there_is_nothing_to_reconcile_without_redis(settings: Any) -> None:
    settings.REDIS_URL = ""
    with pytest.raises(Exception, match="restart it to reconcile"):
        call_command("reconcile")


def test_a_new_process_in_memory_begins_where_the_ledger_stands(organization: Organization) -> None:
    make_limit(organization, "spend", "0.000001", period="month")
    (limited,) = reading.limited(organization.slug)
    key = key_with(*limited.rules, organization=limited.organization_id)
    record(organization_id=limited.organization_id, cost_nano=990)

    async def call() -> None:
        seeding.use(counters.rebuild)
        try:
            hold = await admit(MemoryLimiter(), key, time.time(), spend=10)
            assert hold.standing is not None
            assert hold.standing.remaining == 0
        finally:
            seeding.use(None)

    run(call())
