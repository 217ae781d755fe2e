"""The one installation that the live tests share: started once, asked by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from keys import issue
from keys.audit import Actor
from keys.models import VirtualKey
from tests.live.gateway import LOOKING_OFTEN, gateway
from tests.live.world import WATCHER, World, configuration


@pytest.fixture(scope="package", autouse=True)
def _databases_may_be_reached(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """For `Gateway.inside`: the installations' own. No test here touches that of the run."""
    with django_db_blocker.unblock():
        yield


def stop_keys() -> None:
    """What no command does: an operator switches a key off in the admin, through this same function, and time ends one."""
    actor = Actor(id="", name="tests", source="command", address="")
    issue.revoke(VirtualKey.objects.get(name="revoked"), actor)
    issue.disable(VirtualKey.objects.get(name="disabled"), actor)
    VirtualKey.objects.filter(name="expired").update(expires_at=datetime(2020, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="package")
def world(_running_upstreams: Callable[[str], Any]) -> Iterator[World]:
    environment = {**LOOKING_OFTEN, "METRICS_TOKEN": WATCHER}
    with gateway(configuration(_running_upstreams), environment=environment, started=False) as running:
        running.inside(stop_keys)
        running.start()
        made = World(running, _running_upstreams)
        yield made
        made.close()
