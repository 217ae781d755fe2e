"""Health and metrics over a real server, as the machines that look after machines read them."""

from __future__ import annotations

import re
import time

import pytest

from tests.live.world import WATCHER, World, saying

pytestmark = pytest.mark.live


def test_health_readiness_and_metrics_tell_what_is_there(world: World) -> None:
    client = world.http
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["database"]) == (200, "ok")
    before = metrics(world)
    assert world.ask("watched").status_code == 200
    client.post("/v1beta/models/watched:generateContent", json=saying("Hi"), headers={"x-goog-api-key": "nobody's"})
    assert client.get("/metrics").status_code == 403
    seen, deadline = "", time.monotonic() + 20
    ours = r'gatehouse_calls_total\{action="generateContent".*model="watched".*status="OK"\} (\S+)'
    while not (found := re.search(ours, seen)):
        assert time.monotonic() < deadline, "the call is not counted"
        seen = metrics(world)
    assert float(found.group(1)) == 1
    assert malformed(seen) == malformed(before) + 1
    assert "gatehouse_calls_in_flight 0.0" in seen
    assert world.keys["ci"] not in seen


def metrics(world: World) -> str:
    return str(world.http.get("/metrics", headers={"authorization": f"Bearer {WATCHER}"}).text)


def malformed(seen: str) -> float:
    found = re.search(r'gatehouse_unknown_callers_total\{problem="malformed"\} (\S+)', seen)
    return float(found.group(1)) if found else 0.0
