"""Explanations and the health of deployments: what people see, and that looking changes nothing."""

from __future__ import annotations

import json
from io import StringIO
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from routing import explain
from routing.catalog import Catalog
from routing.errors import NoDeployment, UpstreamError
from routing.models import Connection, Deployment, PublicModel
from routing.router import Hints, Router
from routing.scores_memory import Board
from tests.factories import IssuedKey
from tests.routing.simulation import deployment, public_model
from tests.routing.test_router_attempts import Time, answer, call, fail

MODEL = public_model(
    deployment("main"), deployment("second"), deployment("drained", draining=True), deployment("spare", priority=1),
    strategy="failover",
)  # fmt: skip


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def router(time: Time) -> Router:
    return Router(Board(time, epoch=0.0), random=Random(1))


def told(router: Router, **given: Any) -> list[tuple[int | None, str, str]]:
    rows = explain.explain(MODEL, Hints(**given), router=router)
    return [(row.order, row.deployment, row.reason) for row in rows]


def test_the_deployments_stand_in_the_order_they_would_be_tried(router: Router) -> None:
    assert told(router) == [
        (1, "main", "first in order"),
        (2, "second", "first in order"),
        (3, "spare", "first in order"),
        (None, "drained", "draining"),
    ]


def test_one_that_cools_is_listed_with_the_reason(router: Router) -> None:
    call(router, MODEL, fail("rate_limited", retry_after=7.0), answer)
    assert told(router)[-2:] == [
        (None, "main", "cooling down for 7.0 s more (rate limited)"),
        (None, "drained", "draining"),
    ]


def test_more_than_three_are_not_reached(router: Router) -> None:
    many = public_model(*(deployment(f"d{number}") for number in range(5)), strategy="failover")
    rows = explain.explain(many, Hints(), router=router)
    assert [row.order for row in rows] == [1, 2, 3, None, None]
    assert rows[3].reason == "not reached: 3 tries at most"


def test_fallback_models_come_last_and_only_those_the_key_may_use(router: Router) -> None:
    large = public_model(deployment("l"), id="large", name="large", fallbacks=("small", "secret"))
    others = (public_model(deployment(name[0]), id=name, name=name) for name in ("small", "secret"))
    hints = Hints(catalog=Catalog((large, *others)), allows=lambda name: name != "secret")
    rows = explain.explain(large, hints, router=router)
    assert [(row.model, row.reason) for row in rows] == [
        ("m", "the only one left"),
        ("m", "fallback model small: the only one left"),
    ]


def test_explaining_lends_nothing_and_takes_no_retries(router: Router) -> None:
    for _ in range(100):
        told(router)
    assert all(score.running == 0 for score in router.board.scores.values())
    assert router.board.plan(MODEL, router.clock()).budget.take(router.clock())
    for _ in range(5):
        call(router, MODEL, fail("server"), answer)
    assert told(router)[0][1] == "second"
    with pytest.raises(NoDeployment):  # and the one try a second, while all are out, is not used up by looking
        only = public_model(deployment("only"), id="only")
        for _ in range(5):
            with pytest.raises(UpstreamError):
                call(router, only, fail("credential"))
            explain.explain(only, Hints(), router=router)
            call(router, only, answer)


def test_health_tells_state_counts_and_times(router: Router, time: Time) -> None:
    def slowly(attempt: Any, entry: Any) -> object:
        time.now += 0.1
        attempt.first_byte()
        time.now += 0.9
        return entry.id

    for _ in range(3):
        call(router, MODEL, slowly)
    call(router, MODEL, fail("rate_limited", retry_after=60.0), answer)
    health = explain.states(Catalog((MODEL,)), router=router)
    main = health["main"]
    assert (main.state, main.cause, main.seconds) == ("cooling", "rate_limited", 60.0)
    assert main.calls == {"5m": 4, "1h": 4, "24h": 4}
    assert main.errors["5m"] == {"rate_limited": 1}
    assert main.first.p50 is not None and 90 <= main.first.p50 <= 130
    assert main.total.p99 is not None and 900 <= main.total.p99 <= 1300
    assert (main.share, main.meant) == (pytest.approx(4 / 5), pytest.approx(1 / 3))
    assert main.last_failure is not None and main.last_failure.text == "it was rate_limited"
    assert main.requests_a_minute > 3
    assert health["drained"].state == "draining"
    assert health["spare"].first.p50 is None


def test_a_reset_brings_a_deployment_back(monkeypatch: pytest.MonkeyPatch) -> None:
    board = explain.routers.router.board
    score = board.score(deployment("to-reset"))
    try:
        score.breaker.failed("credential", board.clock(), jitter=0.5)
        assert score.breaker.state(board.clock()) == "held"
        explain.reset("to-reset")
        assert score.breaker.state(board.clock()) == "closed"
    finally:
        del board.scores["to-reset"]


# The command


@pytest.fixture
def public(db: None) -> PublicModel:
    connection = Connection.objects.create(
        name="here", kind="openai", base_url="http://127.0.0.1:1", allow_private=True
    )
    model = PublicModel.objects.create(name="gpt", strategy="failover", aliases=["g"])
    Deployment.objects.create(model=model, connection=connection, upstream_model="gpt-4o")
    return model


def printed(*given: str) -> str:
    out = StringIO()
    call_command("explain", *given, stdout=out)
    return out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_the_command_tells_policy_first_and_then_the_deployments(public: PublicModel, issued_key: IssuedKey) -> None:
    said = printed("--model", "g", "--key", issued_key.key.name).splitlines()
    assert said[0] == "Policy: allowed"
    assert said[1] == "Model gpt, strategy failover"
    assert "1. gpt-4o at here" in said[-1]


@pytest.mark.django_db(transaction=True)
def test_the_command_says_when_policy_refuses_and_answers_in_json_too(
    public: PublicModel, issued_key: IssuedKey
) -> None:
    issued_key.key.allowed_models = ["other-*"]
    issued_key.key.save()
    told = json.loads(printed("--model", "gpt", "--key", str(issued_key.key.pk), "--json"))
    assert told["refused"] == "refused: Model 'gpt' is not allowed for this API key."
    assert told["deployments"][0]["order"] == 1


@pytest.mark.django_db(transaction=True)
def test_the_command_names_what_it_does_not_know(public: PublicModel, issued_key: IssuedKey) -> None:
    with pytest.raises(CommandError, match="no model 'nothing'"):
        printed("--model", "nothing", "--key", issued_key.key.name)
    with pytest.raises(CommandError, match="no key 'nobody'"):
        printed("--model", "gpt", "--key", "nobody")
