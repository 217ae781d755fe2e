"""What ends before it is answered: a server told to stop, and a client whose own deadline passes."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.live.gateway import connection_to, gateway, one_organization

pytestmark = pytest.mark.live


def asked(text: str) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": text}]}]}


def configuration(upstream: Callable[[str], Any]) -> dict[str, Any]:
    return one_organization(
        [connection_to(upstream("openai"), "openai", "o")],
        [{"name": "m", "deployments": [{"connection": "o", "upstream_model": "gpt-4o"}]}],
    )


def records(directory: Path) -> list[tuple[int, str, int, str]]:
    with sqlite3.connect(directory / "gatehouse.sqlite3") as database:
        return database.execute("SELECT http_status, status, cost_nano, flags FROM usage_requestrecord").fetchall()


def test_a_stream_that_outlasts_the_drain_ends_with_a_proper_error_and_is_charged_for_what_came(
    upstream: Callable[[str], Any],
) -> None:
    environment = {"GATEHOUSE_DRAIN_TIMEOUT": "1"}
    with gateway(configuration(upstream), store="embedded", environment=environment) as house:
        headers = {"x-goog-api-key": next(iter(house.keys.values()))}
        path = f"{house.url}/v1beta/models/m:streamGenerateContent?alt=sse"
        with httpx2.stream(
            "POST", path, json=asked("[[long:500]] [[pace:0.05]]"), headers=headers, timeout=30
        ) as answer:
            pieces = answer.iter_text()
            said = next(pieces)
            house.process.send_signal(signal.SIGTERM)
            said += "".join(pieces)
        last = json.loads(said.rsplit("\n\n", 1)[1])
        assert last["error"]["status"] == "UNAVAILABLE"
        assert f"data: {json.dumps(last, separators=(',', ':'))}\n\n" in said
        house.process.wait(20)
        ((http_status, status, cost, flags),) = records(Path(house.environment["GATEHOUSE_DATA_DIR"]))
        assert (http_status, status, json.loads(flags)[0]) == (503, "UNAVAILABLE", "cut")
        assert cost > 0


def test_a_call_that_its_own_deadline_ends_is_charged_like_one_whose_client_left(
    upstream: Callable[[str], Any],
) -> None:
    with gateway(configuration(upstream), store="embedded") as house:
        headers = {"x-goog-api-key": next(iter(house.keys.values())), "x-server-timeout": "1"}
        path = f"{house.url}/v1beta/models/m:generateContent"
        answer = httpx2.post(path, json=asked("[[delay:20]] hi"), headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
        house.stop()
        ((_, _, cost, flags),) = records(Path(house.environment["GATEHOUSE_DATA_DIR"]))
        assert cost > 0 and "estimated" in flags
