"""The one installation that the live tests share: started once, asked by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.gateway import gateway
from tests.live.world import World, configuration

# What no command does: an operator switches a key off in the admin, through this same function, and time ends one.
STOPPED = """
from datetime import UTC, datetime
from keys import issue
from keys.audit import Actor
from keys.models import VirtualKey
actor = Actor(id="", name="tests", source="command", address="")
issue.revoke(VirtualKey.objects.get(name="revoked"), actor)
issue.disable(VirtualKey.objects.get(name="disabled"), actor)
VirtualKey.objects.filter(name="expired").update(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
"""


@pytest.fixture(scope="package")
def world(_running_upstreams: Callable[[str], Any]) -> Iterator[World]:
    with gateway(configuration(_running_upstreams), started=False) as running:
        running.manage("shell", "-c", STOPPED)
        running.start()
        made = World(running, _running_upstreams)
        yield made
        made.close()
