"""Health and metrics over a real server, as the machines that look after machines read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.live.gateway import connection_to, gateway, one_organization

pytestmark = pytest.mark.live
ASK = {"contents": [{"parts": [{"text": "hi"}]}]}


def test_health_readiness_and_metrics_tell_what_is_there(upstream: Callable[[str], Any]) -> None:
    provider = upstream("gemini")
    configuration = one_organization(
        [connection_to(provider, "gemini", "g")],
        [{"name": "m", "deployments": [{"connection": "g", "upstream_model": "gemini-2.5-flash"}]}],
    )
    with (
        gateway(configuration, environment={"METRICS_TOKEN": "watcher"}) as house,
        httpx2.Client(base_url=house.url) as client,
    ):
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]) == (200, "ok")
        key = next(iter(house.keys.values()))
        answer = client.post("/v1beta/models/m:generateContent", json=ASK, headers={"x-goog-api-key": key})
        assert answer.status_code == 200
        client.post("/v1beta/models/m:generateContent", json=ASK, headers={"x-goog-api-key": "nobody's"})
        assert client.get("/metrics").status_code == 403
        seen = ""
        while not (found := re.search(r'gatehouse_calls_total\{action="generateContent".*status="OK"\} (\S+)', seen)):
            seen = client.get("/metrics", headers={"authorization": "Bearer watcher"}).text
        assert float(found.group(1)) == 1
        assert 'gatehouse_unknown_callers_total{problem="malformed"} 1.0' in seen
        assert "gatehouse_calls_in_flight 0.0" in seen
        assert key not in seen
