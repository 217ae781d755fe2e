"""Limits through the real product: several server processes, real sockets, clients that leave."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.live.gateway import LOOKING_OFTEN, Gateway, connection_to, gateway, one_organization

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get("REDIS_URL"), reason="this run is embedded: every process counts alone"),
]
Json = dict[str, Any]
BUDGET = "0.02"  # USD, some forty answers of the model below
NANO = 10**9


@pytest.fixture(scope="module")
def running(_running_upstreams: Callable[[str], Any]) -> Iterator[Gateway]:
    deployments = [{"connection": "gemini", "upstream_model": "gemini-2.5-flash"}]
    configuration = one_organization(
        [connection_to(_running_upstreams("gemini"), "gemini")],
        [{"name": "fast", "aliases": ["quick"], "deployments": deployments}],
        limits=[{"metric": "spend", "period": "month", "amount": BUDGET}],
    )
    configuration["keys"] += [
        {
            "organization": "acme",
            "name": "minute",
            "limits": [{"metric": "requests", "period": "minute", "amount": 30}],
        },
        {
            "organization": "acme",
            "name": "lifetime",
            "limits": [{"metric": "spend", "period": "lifetime", "amount": "0.000001"}],
        },
        {"organization": "acme", "name": "day", "limits": [{"metric": "requests", "period": "day", "amount": 1}]},
        {"organization": "acme", "name": "two", "limits": [{"metric": "concurrent", "amount": 2}]},
    ]
    with gateway(configuration, store="servers", workers=2, environment=LOOKING_OFTEN) as running:
        yield running


def question(text: str) -> Json:
    return {
        "contents": [{"role": "user", "parts": [{"text": text}]}],
        "generationConfig": {"maxOutputTokens": 300},
    }


@asynccontextmanager
async def client_of(running: Gateway, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A connection for every call, so that both processes get some."""
    async with httpx2.AsyncClient(
        base_url=running.url,
        headers={"x-goog-api-key": running.keys[key], "connection": "close"},
        timeout=60,
        limits=httpx2.Limits(max_connections=64, max_keepalive_connections=0),
    ) as client:
        yield client


def counter(running: Gateway, metric: str, period: str) -> Json:
    """The counter of the one limit like that, when nothing is held in it any more."""
    deadline = time.monotonic() + 20
    while True:
        rows = json.loads(running.manage("reconcile", "--json", "--lag", "0.6", "--skip-checks"))
        (found,) = [row for row in rows if (row["metric"], row["period"]) == (metric, period)]
        if not found["held"] and not found["drift"] and found["used"] == found["ledger"]:
            return dict(found)
        assert time.monotonic() < deadline, found


async def test_a_budget_is_kept_to_the_nano_dollar_whoever_leaves_in_the_middle(running: Gateway) -> None:
    luck = random.Random(3)
    seen: Counter[str] = Counter()

    async def unary(client: httpx2.AsyncClient) -> None:
        answer = await client.post("/v1beta/models/fast:generateContent", json=question("[[long:200]]"))
        seen[str(answer.status_code)] += 1
        if answer.status_code == 200:
            assert answer.json()["usageMetadata"]["candidatesTokenCount"] == 200

    async def streamed(client: httpx2.AsyncClient, leaves: bool) -> None:
        path = "/v1beta/models/fast:streamGenerateContent?alt=sse"
        async with client.stream("POST", path, json=question("[[long:200]][[pace:0.002]]")) as answer:
            seen["left" if leaves and answer.status_code == 200 else str(answer.status_code)] += 1
            async for _ in answer.aiter_lines():
                if leaves:
                    return

    async def call(client: httpx2.AsyncClient) -> None:
        await asyncio.sleep(luck.random())
        kind = luck.choice(["unary", "streamed", "leaves"])
        await (unary(client) if kind == "unary" else streamed(client, kind == "leaves"))

    async with client_of(running, "ci") as client:
        await asyncio.gather(*(call(client) for _ in range(150)))
    assert set(seen) == {"200", "429", "left"}
    found = await asyncio.to_thread(counter, running, "spend", "month")
    assert 0 < found["used"] <= float(BUDGET) * NANO


async def test_exactly_as_many_requests_pass_in_a_minute_however_the_model_is_spelt(running: Gateway) -> None:
    spellings = [
        "/v1beta/models/fast", "/v1/models/quick", "/v1alpha/models/f%61st", "/v1beta/models/q%75ick", "/v1/models/fast",
    ]  # fmt: skip
    async with client_of(running, "minute") as client:
        answers = await asyncio.gather(
            *(client.post(f"{spellings[n % 5]}:generateContent", json=question("Hi")) for n in range(90))
        )
    codes = Counter(answer.status_code for answer in answers)
    assert codes == {200: 30, 429: 60}
    refused = next(answer for answer in answers if answer.status_code == 429)
    details = {each["@type"].rpartition(".")[2]: each for each in refused.json()["error"]["details"]}
    (violation,) = details["QuotaFailure"]["violations"]
    assert violation["quotaId"] == "RequestsPerMinutePerKey"
    assert (violation["quotaDimensions"], violation["quotaValue"]) == ({"model": "fast"}, "30")
    seconds = float(details["RetryInfo"]["retryDelay"].removesuffix("s"))
    assert 0 < seconds <= 61
    assert int(refused.headers["retry-after"]) >= seconds
    assert (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"]) == ("30", "0")
    assert 0 < int(refused.headers["x-ratelimit-reset"]) <= 61
    passed = next(answer for answer in answers if answer.status_code == 200)
    assert passed.headers["x-ratelimit-limit"] == "30"


async def test_a_spent_lifetime_and_a_spent_day_make_clients_stop(running: Gateway) -> None:
    async with client_of(running, "lifetime") as client:
        answer = await client.post("/v1beta/models/fast:generateContent", json=question("Hi"))
    delay = next(each for each in answer.json()["error"]["details"] if each["@type"].endswith("RetryInfo"))
    assert float(delay["retryDelay"].removesuffix("s")) > 300
    async with client_of(running, "day") as client:
        await client.post("/v1beta/models/fast:generateContent", json=question("Hi"))
        answer = await client.post("/v1beta/models/fast:generateContent", json=question("Hi"))
    failure = next(each for each in answer.json()["error"]["details"] if each["@type"].endswith("QuotaFailure"))
    assert "PerDay" in failure["violations"][0]["quotaId"]


async def test_a_finished_call_makes_room_at_once_for_the_next(running: Gateway) -> None:
    async def turn(client: httpx2.AsyncClient) -> list[int]:
        path = "/v1beta/models/fast:generateContent"
        return [(await client.post(path, json=question("Hi"))).status_code for _ in range(15)]

    async with client_of(running, "two") as client:
        codes = await asyncio.gather(turn(client), turn(client))
    assert Counter(codes[0] + codes[1]) == {200: 30}
