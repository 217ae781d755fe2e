"""What clients, machines and administrators hear while Redis or the database is away: stopped, silent, and back again.

The long form is `python -m bench.drills.outages`. Redis is a server of these tests' own; the database lies behind a cable.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from django.test import Client

from keys import secrets
from keys.models import User
from tests.keys.relay import Cable
from tests.live.gateway import LOOKING_OFTEN, Gateway, connection_to, gateway, one_organization
from tests.live.world import recorded, saying
from tests.servers import CannotStart, Server, Servers

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif("not __import__('os').environ.get('DATABASE_URL')", reason="this run is embedded: no servers"),
]
LIMITS = [
    {"metric": "spend", "period": "month", "amount": "5"},
    {"metric": "requests", "period": "day", "amount": 1000},
    {"metric": "concurrent", "amount": 50},
]


def signed_in() -> str:
    """The cookie of an administrator."""
    client = Client()
    client.force_login(User.objects.create_superuser("admin@example.com", "a-long-password"))
    return "; ".join(f"{name}={cookie.value}" for name, cookie in client.cookies.items())


@dataclass
class Place:
    gateway: Gateway
    redis: Server
    database: Cable
    client: httpx2.Client
    admin: str  # the cookie of who is signed in

    def ask(self, key: str) -> httpx2.Response:
        secret = self.gateway.keys.get(key, key)
        return self.client.post(
            "/v1beta/models/fast:generateContent", json=saying("Hi"), headers={"x-goog-api-key": secret}
        )

    def page(self) -> str:
        answer = self.client.get("/admin/", headers={"cookie": self.admin})
        assert answer.status_code == 200
        return answer.text

    def checks(self) -> Any:
        answer = self.client.get("/readyz")
        assert answer.status_code == 200, "known keys are served: calls may come"
        return answer.json()["checks"]

    def metric(self, name: str) -> str:
        return next(
            line.split()[1] for line in self.client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")
        )

    def until(self, happened: Callable[[], object], why: str, seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, why
            time.sleep(0.02)

    def counters_are_right(self) -> bool:
        rows = json.loads(self.gateway.manage("reconcile", "--json", "--lag", "0.6", "--skip-checks"))
        assert len(rows) == 4
        return all(row["used"] == row["ledger"] and not row["held"] for row in rows)


@pytest.fixture(scope="module")
def place(_running_upstreams: Callable[[str], Any]) -> Iterator[Place]:
    deployments = [{"connection": "gemini", "upstream_model": "gemini-2.5-flash"}]
    connections = [connection_to(_running_upstreams("gemini"), "gemini")]
    configuration = one_organization(connections, [{"name": "fast", "deployments": deployments}], limits=LIMITS)
    denies = {"organization": "acme", "name": "denies", "limits": LIMITS, "outage_policy": "deny"}
    configuration["keys"].append(denies)
    servers = Servers()
    try:
        _, redis_url = servers.start(postgres=False)
    except CannotStart as error:
        pytest.skip(str(error))
    environment = {"GATEHOUSE_STORE_TIMEOUT": "0.5", **LOOKING_OFTEN}
    try:
        with gateway(store="servers", started=False, environment=environment) as running:
            straight = running.environment["DATABASE_URL"]
            running.environment["REDIS_URL"] = redis_url
            running.apply(configuration)
            admin = running.inside(signed_in)
            with Cable.to(straight) as cable, httpx2.Client(base_url=running.url, timeout=30) as client:
                running.environment["DATABASE_URL"] = cable.url
                running.start()
                yield Place(running, servers.running["Valkey"], cable, client, admin)
                cable.speak()
                running.kill()
                running.environment["DATABASE_URL"] = straight
    finally:
        servers.stop()


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["status"]


@pytest.mark.parametrize("way", ["stopped", "silent"])
def test_without_redis_local_keys_go_on_and_others_hear_that_limits_cannot_be_checked(place: Place, way: str) -> None:
    assert [place.ask(key).status_code for key in ("ci", "denies")] == [200, 200]
    assert (place.checks()["store"], place.metric("gatehouse_store_up")) == ("ok", "1.0")
    assert "Redis is out of reach" not in place.page()
    (place.redis.stop if way == "stopped" else place.redis.pause)()
    try:
        place.until(lambda: error_of(place.ask("denies")) == (503, "UNAVAILABLE"), "it is let in")
        answers = [place.ask("ci") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        refused = place.ask("denies")
        assert error_of(refused) == (503, "UNAVAILABLE")
        assert any(each["@type"].endswith("RetryInfo") for each in refused.json()["error"]["details"])
        assert error_of(place.ask(secrets.make())) == (400, "INVALID_ARGUMENT"), "who is nobody is told so all the same"
        place.until(lambda: place.metric("gatehouse_store_up") == "0.0", "the metric does not tell")
        assert place.checks()["store"] == "degraded"
        assert "Redis is out of reach" in place.page()
    finally:
        if way == "stopped":
            assert place.redis.start()
        else:
            place.redis.resume()
    place.until(lambda: place.ask("denies").status_code == 200, "it does not come back")
    found = recorded(place.gateway, [answer.headers["x-request-id"] for answer in answers])
    assert all("degraded" in row["flags"] for row in found.values())
    assert place.checks()["store"] == "ok"
    assert "Redis is out of reach" not in place.page()
    place.until(place.counters_are_right, "counters and ledger differ")


@pytest.mark.parametrize("way", ["stopped", "silent"])
def test_without_the_database_known_keys_go_on_and_unknown_ones_hear_503(place: Place, way: str) -> None:
    assert place.ask("ci").status_code == 200
    (place.database.cut if way == "stopped" else place.database.silence)()
    try:
        answers = [place.ask("ci") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        unknown = secrets.make()
        with ThreadPoolExecutor(2) as threads:  # whoever needs the database waits for it for some seconds
            asked = threads.submit(place.ask, unknown)
            if way == "stopped":
                checks = threads.submit(place.checks)
                place.until(lambda: place.metric("gatehouse_ledger_up") == "0.0", "the metric does not tell")
                assert checks.result()["database"] == "degraded"
            assert error_of(asked.result()) == (503, "UNAVAILABLE"), "never an auth error"
        answers += [place.ask("ci") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 10
    finally:
        (place.database.mend if way == "stopped" else place.database.speak)()
    place.until(lambda: error_of(place.ask(unknown)) == (400, "INVALID_ARGUMENT"), "it is still not looked up")
    recorded(place.gateway, [answer.headers["x-request-id"] for answer in answers])
    place.until(lambda: place.metric("gatehouse_ledger_up") == "1.0", "the metric does not tell")
    place.until(lambda: place.checks()["database"] == "ok", "it is still told as out of reach")
