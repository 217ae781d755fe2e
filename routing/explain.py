"""What the router would do, and how every deployment is: for people. Nobody is called and nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from routing import router as routers
from routing.breaker import State
from routing.catalog import Catalog, ModelEntry
from routing.router import MOST_ATTEMPTS, Hints, Route, Router
from routing.scores import Failure, Score, percentile
from routing.scores_redis import sharing

SPANS = {"5m": 300, "1h": 3600, "24h": 86400}  # seconds
BUSY_SECONDS = 3600.0  # what percentiles and shares are taken from
NOT_ERRORS = frozenset({"ok", "cancelled"})


@dataclass(frozen=True, slots=True)
class Row:
    """One deployment in an explanation. order: the how-manieth try it would be, None when it would not be tried.

    latency_ms: expected time to the first token (of a stream, or of a whole answer) for an empty prompt, None while
    unknown. load: what the strategy `latency` compares, lower is better. requests, tokens: of the last minute.
    """

    order: int | None
    deployment_id: str
    deployment: str
    model: str
    reason: str
    state: State
    priority: int
    weight: int
    latency_ms: int | None
    in_flight: int
    load: float
    requests: float
    tokens: float
    price: int | None


def explain(model: ModelEntry, hints: Hints, *, router: Router | None = None) -> list[Row]:
    """The deployments in the order they would be tried if each failed, then those that would not be, with the reason.

    Chance has a part in most strategies: a call a moment later may see another order.
    """
    asked = Router((router or routers.router).board, random=Random())
    asked.conversations = (router or routers.router).conversations
    route = Route(asked, model, replace(hints, notes=[]))
    rows: list[Row] = []
    while (attempt := route.peek()) is not None:
        order = len(rows) + 1
        reason = attempt.reason if order <= MOST_ATTEMPTS else f"not reached: {MOST_ATTEMPTS} tries at most"
        rows.append(_row(attempt.score, route, reason, order if order <= MOST_ATTEMPTS else None))
    shown = {row.deployment_id for row in rows}
    for score in asked.board.plan(model, route.now).scores:
        if score.entry.id not in shown:
            rows.append(_row(score, route, route.skipped.get(score.entry.id, "not considered"), None))
    return rows


def _row(score: Score, route: Route, reason: str, order: int | None) -> Row:
    entry, stream = score.entry, route.hints.stream
    latency = score.latency(stream)
    requests, tokens = score.minute.used(route.now)
    return Row(
        order=order,
        deployment_id=entry.id,
        deployment=entry.name,
        model=entry.model,
        reason=reason,
        state=score.breaker.state(route.now),
        priority=entry.priority,
        weight=entry.weight,
        latency_ms=round(latency.value * 1000) if latency.samples else None,
        in_flight=score.in_flight,
        load=round(score.load(stream), 3),
        requests=round(requests, 1),
        tokens=round(tokens),
        price=score.price,
    )


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds that half, 95 % and 99 % of the calls stayed below; None without calls."""

    p50: int | None
    p95: int | None
    p99: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """One deployment, as the health page shows it. Of this process alone without Redis, else of all.

    state: of the breaker, or "draining". seconds: until a call may go there again, 0 when it may. share: of the calls
    of its model in the last hour; meant: what its weight says it should be, within its priority. errors and calls: by
    span ("5m", "1h", "24h", each up to five minutes longer); errors by kind. last_failure: of this process.
    """

    deployment_id: str
    deployment: str
    model: str
    connection: str
    state: State | Literal["draining"]
    cause: str
    seconds: float
    openings: int
    in_flight: int
    requests_a_minute: float
    tokens_a_minute: float
    first: Times
    total: Times
    calls: dict[str, int]
    errors: dict[str, dict[str, int]]
    share: float
    meant: float
    last_success_ago: float | None
    last_failure: Failure | None


def states(catalog: Catalog, *, router: Router | None = None) -> dict[str, Health]:
    """Every deployment's health, by id."""
    board = (router or routers.router).board
    now = board.clock()
    found: dict[str, Health] = {}
    for model in catalog.models:
        scores = [board.score(entry) for entry in model.deployments]
        calls = [sum(_outcomes(score, now + board.epoch, BUSY_SECONDS).values()) for score in scores]
        for score, count in zip(scores, calls, strict=True):
            peers = [peer for peer in scores if peer.tier == score.tier]
            meant = score.entry.weight / (sum(peer.entry.weight for peer in peers) or 1)
            found[score.entry.id] = _health(score, now, board.epoch, count / (sum(calls) or 1), meant)
    return found


def reset(deployment_id: str) -> None:
    """Take back whatever keeps calls away from a deployment, in every process. From any thread."""
    sharing.reset(deployment_id)


def _health(score: Score, now: float, epoch: float, share: float, meant: float) -> Health:
    entry, breaker = score.entry, score.breaker
    spans = {name: _outcomes(score, now + epoch, seconds) for name, seconds in SPANS.items()}
    counts = score.tally.since(now + epoch, BUSY_SECONDS)
    requests, tokens = score.minute.used(now)
    state = breaker.state(now)
    return Health(
        deployment_id=entry.id,
        deployment=entry.name,
        model=entry.model,
        connection=entry.connection,
        state="draining" if entry.draining and state == "closed" else state,
        cause=breaker.cause if state != "closed" else "",
        seconds=max(0.0, breaker.blocked_until - now),
        openings=breaker.openings,
        in_flight=score.in_flight,
        requests_a_minute=round(requests, 1),
        tokens_a_minute=round(tokens),
        first=_times(counts, "first:"),
        total=_times(counts, "total:"),
        calls={name: sum(outcomes.values()) for name, outcomes in spans.items()},
        errors={
            name: {kind: count for kind, count in sorted(outcomes.items()) if kind not in NOT_ERRORS}
            for name, outcomes in spans.items()
        },
        share=share,
        meant=meant,
        last_success_ago=now - score.last_success if score.last_success > float("-inf") else None,
        last_failure=score.last_failure,
    )


def _outcomes(score: Score, unix: float, seconds: float) -> dict[str, int]:
    return {name: count for name, count in score.tally.since(unix, seconds).items() if ":" not in name}


def _times(counts: dict[str, int], prefix: str) -> Times:
    return Times(*(percentile(counts, prefix, share) for share in (0.5, 0.95, 0.99)))
