"""An answer that goes on is asked for where it began."""

from __future__ import annotations

from random import Random

from routing.errors import UpstreamError
from routing.router import Hints, Router
from routing.scores_memory import Board
from tests.routing.simulation import deployment, public_model


def router() -> Router:
    return Router(Board(lambda: 1000.0, epoch=0.0), random=Random(1))


MODEL = public_model(deployment("first"), deployment("other"), deployment("spare", priority=9), strategy="failover")


def test_the_pinned_deployment_goes_first_whatever_its_priority() -> None:
    for pinned in ("other", "spare"):
        attempt = next(iter(router().attempts(MODEL, Hints(pinned=pinned))))
        assert attempt.deployment.id == pinned
        assert attempt.reason == "made the answer that goes on here"


def test_one_that_is_gone_leaves_the_choice_to_the_strategy() -> None:
    assert next(iter(router().attempts(MODEL, Hints(pinned="removed")))).deployment.id == "first"


def test_a_pinned_one_that_fails_is_not_the_end() -> None:
    seen = []
    for attempt in router().attempts(MODEL, Hints(pinned="spare")):
        with attempt as entry:
            seen.append(entry.id)
            if entry.id == "spare":
                raise UpstreamError("unavailable", "it is away")
            break
    assert seen == ["spare", "first"]
