"""What ends before it is answered: a server told to stop, and a client whose own deadline passes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.live.gateway import Gateway, connection_to, gateway, one_organization
from tests.live.world import recorded, saying

pytestmark = pytest.mark.live


def configuration(upstream: Callable[[str], Any]) -> dict[str, Any]:
    return one_organization(
        [connection_to(upstream("openai"), "openai", "o")],
        [{"name": "m", "deployments": [{"connection": "o", "upstream_model": "gpt-4o"}]}],
    )


@pytest.fixture(scope="module")
def _house(_running_upstreams: Callable[[str], Any]) -> Iterator[Gateway]:
    environment = {"GATEHOUSE_DRAIN_TIMEOUT": "1"}
    with gateway(configuration(_running_upstreams), store="embedded", environment=environment) as made:
        yield made


@pytest.fixture
def house(_house: Gateway) -> Gateway:
    """It, running: a test may have stopped it."""
    if _house.process is None or _house.process.poll() is not None:
        _house.start()
    return _house


def test_a_call_that_its_own_deadline_ends_is_charged_like_one_whose_client_left(house: Gateway) -> None:
    headers = {"x-goog-api-key": house.keys["ci"], "x-server-timeout": "1"}
    path = f"{house.url}/v1beta/models/m:generateContent"
    answer = httpx2.post(path, json=saying("[[delay:20]] hi"), headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]["status"]) == (504, "DEADLINE_EXCEEDED")
    [row] = recorded(house, [answer.headers["x-request-id"]]).values()
    assert row["cost_nano"] > 0 and "estimated" in row["flags"]


def test_a_stream_that_outlasts_the_drain_ends_with_a_proper_error_and_is_charged_for_what_came(
    house: Gateway,
) -> None:
    headers = {"x-goog-api-key": house.keys["ci"]}
    path = f"{house.url}/v1beta/models/m:streamGenerateContent?alt=sse"
    with httpx2.stream("POST", path, json=saying("[[long:500]] [[pace:0.05]]"), headers=headers, timeout=30) as answer:
        pieces = answer.iter_text()
        said = next(pieces)
        os.kill(house.pid, signal.SIGTERM)
        said += "".join(pieces)
    last = json.loads(said.rsplit("\n\n", 1)[1])
    assert last["error"]["status"] == "UNAVAILABLE"
    assert f"data: {json.dumps(last, separators=(',', ':'))}\n\n" in said
    assert house.process is not None
    house.process.wait(20)
    [row] = recorded(house, [answer.headers["x-request-id"]]).values()
    assert (row["http_status"], row["status"], row["flags"][0]) == (503, "UNAVAILABLE", "cut")
    assert row["cost_nano"] > 0
