"""Clients that leave at random moments: nothing is left behind, and every call that was admitted has its record.

The long form is `python -m bench.drills.cancel_storm`.
"""

from __future__ import annotations

import asyncio

import pytest

from bench.drills.cancel_storm import Figures, at_once, figures, label_in, storm, until
from tests.live.world import WATCHER, World, rows

pytestmark = pytest.mark.live

CALLS, PARALLEL = 300, 50
MODELS = ("gemini", "openai", "anthropic", "bedrock-nova")


def test_three_hundred_clients_leave_and_nothing_is_left_behind(world: World) -> None:
    port, key, pid = world.gateway.port, world.keys["ci"], world.gateway.pid
    vendors = [world.vendor(name) for name in ("gemini", "openai", "anthropic", "bedrock")]

    def held() -> Figures:
        return figures(port, pid, WATCHER)

    asyncio.run(at_once(port, key, MODELS, PARALLEL, "warm"))  # connections to the vendors are kept: here they are made
    before = held()
    seen = asyncio.run(storm(port, [key], MODELS, calls=CALLS, parallel=PARALLEL, seed=7))
    assert 0 < len(seen.answered) < CALLS
    assert set(seen.statuses.values()) == {200}
    assert until(lambda: held().within(before)), (before, held())

    reached = {label for vendor in vendors for each in vendor.requests if (label := label_in(each.body, "storm"))}
    assert seen.answered <= reached

    def found() -> list[str]:
        return [row["label"] for row in rows(world.gateway) if row["label"].startswith("storm-")]

    assert until(lambda: reached <= set(found())), reached - set(found())
    assert len(found()) == len(set(found())), "each once"
    ended = {(row["http_status"], row["status"]) for row in rows(world.gateway) if row["label"].startswith("storm-")}
    assert ended == {(200, "OK"), (499, "CANCELLED")}

    afterwards = asyncio.run(at_once(port, key, MODELS, 100, "after"))
    assert len(afterwards.answered) == 100 and set(afterwards.statuses.values()) == {200}
