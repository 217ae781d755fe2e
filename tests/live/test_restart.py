"""`kill -9` under load and a restart lose nothing and double nothing; what one process decides, the others know.

The long form is `python -m bench.drills.kill_rounds`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.drills.cancel_storm import until
from bench.drills.kill_rounds import Round, load_until_killed, verdict
from keys.models import VirtualKey
from tests.live.gateway import Gateway, connection_to, gateway, one_organization
from tests.live.world import rows, saying
from tests.servers import free_port

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


# What a process knows of a key it keeps for an hour here: only the notice of another process can take it away.
PATIENT = {"GATEHOUSE_KEY_CACHE_SECONDS": "3600"}


@pytest.fixture(scope="module")
def running(_running_upstreams: Callable[[str], Any]) -> Iterator[Gateway]:
    with gateway(configuration(_running_upstreams), store=STORE, environment=PATIENT) as made:
        yield made


def test_every_answered_call_is_recorded_once_after_a_kill(running: Gateway) -> None:
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


@pytest.fixture
def two(running: Gateway, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two processes with a disk each over one PostgreSQL and one Redis, as behind a load balancer."""
    if not os.environ.get("DATABASE_URL"):
        pytest.skip("this run is embedded: one process is all there is")
    port = free_port()
    environment = {**running.environment, "GATEHOUSE_DATA_DIR": str(tmp_path)}
    url = f"http://127.0.0.1:{port}"
    other = replace(running, url=url, port=port, data_dir=tmp_path, environment=environment, process=None)
    try:
        other.start()
        yield running, other
    finally:
        other.kill()


def test_a_key_revoked_beside_two_processes_is_refused_by_both_at_once(two: tuple[Gateway, Gateway]) -> None:
    def ask(running: Gateway) -> httpx2.Response:
        url = f"{running.url}/v1beta/models/gemini:generateContent"
        return httpx2.post(url, json=saying("Hi"), headers={"x-goog-api-key": running.keys["ci"]}, timeout=30)

    one = two[0]
    assert [ask(running).status_code for running in two] == [200, 200]
    key = one.inside(lambda: VirtualKey.objects.get(name="ci").pk)
    one.manage("revokekey", str(key), "--skip-checks")
    for running in two:
        assert until(lambda running=running: ask(running).status_code == 400)
        error = ask(running).json()["error"]
        assert error["message"] == "API key not valid. Please pass a valid API key."
