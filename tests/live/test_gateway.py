"""The helper that starts the real product, on every store this run has: it serves, survives a kill, and stops."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.live.gateway import connection_to, gateway, one_organization

STORES = ["embedded", *(["servers"] if os.environ.get("DATABASE_URL") else [])]
pytestmark = pytest.mark.live


@pytest.mark.parametrize("store", STORES)
def test_it_answers_through_a_key_before_and_after_a_kill(upstream: Callable[[str], Any], store: Any) -> None:
    vendor = upstream("gemini")
    deployment = {"connection": "gemini", "upstream_model": "gemini-2.5-flash"}
    configuration = one_organization([connection_to(vendor, "gemini")], [{"name": "fast", "deployments": [deployment]}])
    body = {"contents": [{"role": "user", "parts": [{"text": "Good morning"}]}]}
    with gateway(configuration, store=store) as running:

        def ask(secret: str) -> httpx2.Response:
            url = f"{running.url}/v1beta/models/fast:generateContent"
            return httpx2.post(url, json=body, headers={"x-goog-api-key": secret}, timeout=30)

        answer = ask(running.keys["ci"])
        assert answer.status_code == 200, answer.text
        assert answer.json()["candidates"][0]["content"]["parts"][0]["text"] == "You said: Good morning."
        assert ask("gate_nonsense").status_code == 400
        assert vendor.requests[0].headers["x-goog-api-key"] == "upstream-key"
        assert running.keys["ci"] not in running.log
        running.kill()
        running.start()
        assert ask(running.keys["ci"]).status_code == 200
        assert running.stop() in (0, -signal.SIGTERM)  # uvicorn drains, then ends by the signal it was sent
