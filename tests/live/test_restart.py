"""`kill -9` under load and a restart lose nothing and double nothing; what one process decides, the others know.

The long form is `python -m bench.drills.kill_rounds`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from bench.drills.cancel_storm import until
from bench.drills.kill_rounds import Round, load_until_killed, verdict
from tests.live.gateway import Gateway, connection_to, gateway, one_organization
from tests.live.world import rows, saying

pytestmark = pytest.mark.live
STORE = "servers" if os.environ.get("DATABASE_URL") else "embedded"  # either run of the suite has its own


def configuration(upstream: Callable[[str], Any]) -> dict[str, Any]:
    names = ("gemini", "openai")
    connections = [connection_to(upstream(name), name) for name in names]
    models = [
        {"name": name, "deployments": [{"connection": name, "upstream_model": f"{name}-model"}], "unpriced": "serve"}
        for name in names
    ]
    return one_organization(connections, models)


def test_every_answered_call_is_recorded_once_after_a_kill(upstream: Callable[[str], Any]) -> None:
    with gateway(configuration(upstream), store=STORE) as running:
        load = load_until_killed(
            [running.port],
            running.keys["ci"],
            ["gemini", "openai"],
            running.kill,
            answers=40,
            parallel=8,
            name="round0",
        )
        rounds: list[Round] = [asyncio.run(load)]
        running.start()
        recorded: Counter[str] = Counter()

        def complete() -> bool:
            recorded.clear()
            recorded.update(row["label"] for row in rows(running) if row["label"])
            return not verdict(rounds, recorded)

        assert until(complete), verdict(rounds, recorded)
        assert all(len(each.answered) >= 40 for each in rounds)


# What a process knows of a key it keeps for an hour here: only the notice of another process can take it away.
PATIENT = {"GATEHOUSE_KEY_CACHE_SECONDS": "3600"}


@pytest.fixture
def two(upstream: Callable[[str], Any]) -> Iterator[tuple[Gateway, Gateway]]:
    """Two installations' worth of processes over one PostgreSQL and one Redis, as behind a load balancer."""
    if not os.environ.get("DATABASE_URL"):
        pytest.skip("this run is embedded: one process is all there is")
    with (
        gateway(configuration(upstream), store="servers", environment=PATIENT) as one,
        gateway(None, store="servers", environment=PATIENT, started=False) as place,
    ):
        shared = {name: one.environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
        other = replace(place, environment=place.environment | shared, keys=one.keys)
        try:
            other.start()
            yield one, other
        finally:
            other.kill()


def test_a_key_revoked_beside_two_processes_is_refused_by_both_at_once(two: tuple[Gateway, Gateway]) -> None:
    def ask(running: Gateway) -> httpx2.Response:
        url = f"{running.url}/v1beta/models/gemini:generateContent"
        return httpx2.post(url, json=saying("Hi"), headers={"x-goog-api-key": running.keys["ci"]}, timeout=30)

    one = two[0]
    assert [ask(running).status_code for running in two] == [200, 200]
    [key] = [row["id"] for row in _listed(one) if row["name"] == "ci"]
    one.manage("revokekey", key)
    for running in two:
        assert until(lambda running=running: ask(running).status_code == 400)
        error = ask(running).json()["error"]
        assert error["message"] == "API key not valid. Please pass a valid API key."


def _listed(running: Gateway) -> list[dict[str, Any]]:
    listed = json.loads(running.manage("listkeys", "--json"))
    found: list[dict[str, Any]] = listed["keys"] if isinstance(listed, dict) else listed
    return found
