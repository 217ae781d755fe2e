"""The scores of this process. Every decision is made from here; scores_redis.py mixes in what others found out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from routing.breaker import OPEN_FIRST, Breaker
from routing.catalog import Catalog, DeploymentEntry, ModelEntry
from routing.errors import Kind, UpstreamError
from routing.scores import RetryBudget, Score

log = logging.getLogger(__name__)
NEVER = float("-inf")
PRICES_EVERY = 30.0  # seconds after which the price hook is asked again

# What an operator has to look after, by kind of failure.
ALERTS: dict[Kind, str] = {
    "credential": "The provider refuses the credential of this connection.",
    "billing": "The provider says that the account of this connection has no credit left.",
    "not_found": "The provider does not know the upstream model of this deployment.",
}


@dataclass(slots=True)
class Plan:
    """One model, ready to be routed: its scores in order, first priority first, weight 0 last of all."""

    model: ModelEntry
    scores: list[Score]
    budget: RetryBudget = field(default_factory=RetryBudget)
    last_panic: float = NEVER
    priced_at: float = NEVER


class Board:
    """Scores by deployment id, plans by model id. A new catalog entry keeps the score of its deployment.

    alert: called with a deployment and a sentence when an operator has to do something (credential, bill).
    changed: called with a score whose breaker began or ceased to keep calls away.
    price_of: nano-dollars of a reference call at a deployment, None when unknown; set at start.
    open_first: seconds for which a breaker opens the first time; set at start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, epoch: float | None = None) -> None:
        self.clock = clock
        self.epoch = time.time() - clock() if epoch is None else epoch  # added to the clock it gives Unix time
        self.scores: dict[str, Score] = {}
        self.alert: Callable[[DeploymentEntry, str], None] = log_alert
        self.changed: Callable[[Score, float], None] = ignore
        self.price_of: Callable[[DeploymentEntry], int | None] = no_price
        self.open_first = OPEN_FIRST
        self._plans: dict[str, Plan] = {}

    def plan(self, model: ModelEntry, now: float) -> Plan:
        plan = self._plans.get(model.id)
        if plan is None:
            plan = self._plans[model.id] = Plan(model, self._scores(model))
        elif plan.model is not model:  # a new catalog; the budget goes on
            plan.model, plan.scores, plan.priced_at = model, self._scores(model), NEVER
        if model.strategy == "cheapest" and now - plan.priced_at > PRICES_EVERY:
            plan.priced_at = now
            for score in plan.scores:
                score.price = self.price_of(score.entry)
        return plan

    def score(self, entry: DeploymentEntry) -> Score:
        """The score of a deployment. One that was changed is given a new chance, except under a rate limit.

        A call that began before the change still comes with the entry of then: that is no change.
        """
        score = self.scores.get(entry.id)
        if score is None:
            score = self.scores[entry.id] = Score(entry, Breaker())
        elif score.entry is not entry:
            if entry.version not in (score.entry.version, score.version_before) and score.breaker.trial:
                score.breaker.reset()
            score.replace(entry)
        return score

    def keep(self, catalog: Catalog) -> None:
        """Forget what is not in the catalog any more and has nothing in flight."""
        models = {model.id for model in catalog.models}
        self._plans = {id_: plan for id_, plan in self._plans.items() if id_ in models}
        self.scores = {id_: score for id_, score in self.scores.items() if id_ in catalog.deployments or score.running}

    def failed(
        self, score: Score, error: UpstreamError, now: float, random: Random, *, probe: bool, peers: list[Score]
    ) -> None:
        """Note a failure; tell the alert and the change hooks."""
        out = sum(not peer.breaker.usable(now) for peer in peers if peer is not score)
        spare = len(peers) - out <= 1 or (out + 1) * 2 > len(peers)
        known = score.breaker.state(now) == "held"
        kept_away = score.breaker.failed(
            error.kind, now, jitter=random.random(), probe=probe, retry_after=error.retry_after, spare_on_ratio=spare,
            open_first=self.open_first, flowing=score.flowing,
        )  # fmt: skip
        if not known and error.kind in ALERTS:
            self.alert(score.entry, ALERTS[error.kind])
        if kept_away:
            self.changed(score, now)

    def _scores(self, model: ModelEntry) -> list[Score]:
        return sorted((self.score(entry) for entry in model.deployments), key=lambda score: score.tier)


def log_alert(entry: DeploymentEntry, sentence: str) -> None:
    log.error("%s: %s", entry.name, sentence)


def ignore(score: Score, now: float) -> None:
    """No other process to tell."""


def no_price(entry: DeploymentEntry) -> int | None:
    return None


board = Board()
