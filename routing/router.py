"""Which deployment answers a call, and which one next when that fails.

    for attempt in router.attempts(model, hints):
        if attempt.delay:
            await asyncio.sleep(attempt.delay)
        with attempt as deployment:
            ...           # send; attempt.first_byte(), attempt.commit(), attempt.answered(tokens=...)
            return answer

Leaving the `with` notes the outcome, whatever it is, and swallows an UpstreamError when another try is fair: at most
three, only before `commit()`, only for errors.RETRYABLE, never twice the same deployment while another is there,
within the deadline and within the model's retry budget. Nothing here awaits: a cancellation cannot lose the outcome.
"""

from __future__ import annotations

import random as chance
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType

from lib.bounded import forget_oldest
from routing.backends.base import Action
from routing.breaker import EFFECTS
from routing.catalog import Catalog, DeploymentEntry, ModelEntry, Timeouts
from routing.errors import RETRYABLE, Kind, NoDeployment, UpstreamError
from routing.note import Note
from routing.scores import Score
from routing.scores_memory import Board, Plan, board
from routing.strategies import STRATEGIES, Draw

MOST_ATTEMPTS = 3
LEAST_TIME = 1.0  # seconds a retry needs at least before the deadline
LEAST_SHARE = 0.1  # of a time-out, below which what is left of it is not worth a try
BACKOFF_FIRST, BACKOFF_MOST = 0.1, 2.0  # before the same deployment is asked again; full jitter
PANIC_EVERY = 1.0  # seconds between tries while every deployment of a model is open
BOUNDED_LOAD = 1.25  # how much busier than the average a deployment may be and still keep its conversations
AFFINITY_KEPT, AFFINITY_MOST = 300.0, 20_000  # seconds (providers keep a prompt cache 5 to 10 minutes), conversations
# Waiting a moment may help with these, so the same deployment may be asked again when there is no other.
SAME_AGAIN: frozenset[Kind] = frozenset({"conflict", "server", "unavailable", "connect", "protocol", "cut"})


def everything(name: str) -> bool:
    return True


@dataclass(slots=True)
class Hints:
    """What the router may know of a call. deadline and started are seconds of time.monotonic().

    affinity_key: a hash of the part of the prompt that stays the same within a conversation. scope: the credential
    scope (Endpoint.scope) that made the opaque tokens in the prompt. pinned: id of the deployment whose answer this call
    continues: nobody else can. allows: may the key use this fallback model?
    catalog: where fallback models are found; without it there are none. notes: the waterfall, written by the router.
    """

    call_id: str = ""
    stream: bool = False
    action: Action = "generate"
    prompt_tokens: int = 0
    deadline: float | None = None
    organization_id: str = ""
    affinity_key: str = ""
    scope: str = ""
    pinned: str = ""
    catalog: Catalog | None = None
    allows: Callable[[str], bool] = everything
    started: float = field(default_factory=time.monotonic)
    notes: list[Note] = field(default_factory=list)


class EmptyAnswer(UpstreamError):
    """An answer without content where the model says that another deployment should try."""


class Router:
    """Chooses from a board. The clock (the board's) and chance come in, so that a simulation can replace both."""

    def __init__(self, scores: Board, random: chance.Random | None = None) -> None:
        self.board = scores
        self.clock = scores.clock
        self.random = random or chance.Random()
        self.conversations: dict[str, tuple[str, float]] = {}  # affinity key: deployment id, time; oldest first

    def attempts(self, model: ModelEntry, hints: Hints) -> Iterator[Attempt]:
        """The tries of one call, best first. Raises NoDeployment when there is nothing to try at all."""
        attempt: Attempt | None = Route(self, model, hints).first()
        while attempt is not None:
            yield attempt
            attempt = attempt.next

    def remember(self, key: str, score: Score, now: float) -> None:
        """This conversation's prompt is now in the cache of this deployment."""
        self.conversations.pop(key, None)
        self.conversations[key] = (score.entry.id, now)
        forget_oldest(self.conversations, AFFINITY_MOST)

    def conversation(self, key: str, now: float) -> str:
        """The id of the deployment that has this conversation cached, or an empty string."""
        deployment_id, at = self.conversations.get(key, ("", 0.0))
        return deployment_id if now - at < AFFINITY_KEPT else ""


class Route:
    """The way of one call through the deployments: what was tried, what is left."""

    def __init__(self, router: Router, model: ModelEntry, hints: Hints) -> None:
        self.router = router
        self.model = model
        self.hints = hints
        self.now = router.clock()
        self.plan = router.board.plan(model, self.now)
        self.tried: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.count = 0
        self.refused_scopes: set[str] = set()
        self.waited: dict[str, float] = {}
        self.proven_since: float | None = None

    def first(self) -> Attempt:
        self.plan.budget.called(self.now)
        attempt = self._best() or self._panic()
        if attempt is None:
            raise self._nothing()
        return attempt

    def after(self, attempt: Attempt, error: UpstreamError, now: float) -> Attempt | None:
        """The next try after a failed one; None when there is none, and the error is the answer."""
        self.now = now
        if error.kind not in RETRYABLE or not self._may_retry(0.0):
            return None
        if error.kind == "conflict" and self.count > 1:
            return None
        self._learn(attempt, error)
        return self._taken(self._best() or self._same(attempt, error))

    def peek(self) -> Attempt | None:
        """What would be tried next if all before had failed; for explanations: nothing is lent, nothing is paid."""
        attempt = self._best()
        if attempt is not None:
            self.tried.add(attempt.score.entry.id)
        return attempt

    # Choosing

    def _best(self) -> Attempt | None:
        """The best deployment of the model; when all of them are out, of the first fallback model that has one."""
        if (attempt := self._choose(self.plan)) is not None:
            return attempt
        hints = self.hints
        if hints.catalog is None:
            return None
        for name in self.model.fallbacks:
            model = hints.catalog.resolve(name, hints.organization_id)
            if model is None or model is self.model or not hints.allows(model.name):
                continue
            if (attempt := self._choose(self.router.board.plan(model, self.now))) is not None:
                attempt.reason = f"fallback model {model.name}: {attempt.reason}"
                return attempt
        return None

    def _choose(self, plan: Plan) -> Attempt | None:
        candidates = self._candidates(plan)
        if not candidates:
            return None
        if (pinned := self._pinned(plan)) is not None:
            return Attempt(self, pinned, plan, "made the answer that goes on here", probe=pinned.breaker.trial)
        for score in candidates:
            if score.breaker.trial:
                return Attempt(self, score, plan, "probe", probe=True)
        for preferred, reason in (
            (self._own_scope(plan), "made this call's signatures"),
            (self._cached(candidates), "has this conversation cached"),
        ):
            if preferred is not None:
                return Attempt(self, preferred, plan, reason)
        draw = Draw(self.now, self.hints.stream, self.router.random)
        score, reason = STRATEGIES[plan.model.strategy].choose(candidates, draw)
        return Attempt(self, score, plan, reason)

    def _candidates(self, plan: Plan) -> list[Score]:
        """Everything that may take the call, of the best tier that has something."""
        found: list[Score] = []
        for score in plan.scores:
            if found and score.tier != found[0].tier:
                break
            if score.entry.id in self.tried:
                continue
            if why := self._out(score):
                self._skip(score, why)
            else:
                found.append(score)
        return found

    def _out(self, score: Score) -> str:
        """Why a deployment cannot take the call; an empty string when it can."""
        entry, breaker, now = score.entry, score.breaker, self.now
        if (now < breaker.blocked_until or breaker.trial) and not breaker.usable(now):
            return kept_away(score, now)
        if entry.draining:
            return "draining"
        if score.limited and (full := score.full(now, self.hints.prompt_tokens)):
            return full
        if self.hints.action not in entry.actions:
            return f"cannot {self.hints.action}"
        if self.refused_scopes and entry.endpoint.scope in self.refused_scopes:
            return "its credential was just refused"
        if self.proven_since is not None and score.last_success < self.proven_since:
            return "no time left to find out whether it answers"
        return ""

    def _pinned(self, plan: Plan) -> Score | None:
        """The deployment whose answer this call continues, whatever its tier, if it is usable."""
        if not self.hints.pinned:
            return None
        for score in plan.scores:
            if score.entry.id == self.hints.pinned and score.entry.id not in self.tried and not self._out(score):
                return score
        return None

    def _own_scope(self, plan: Plan) -> Score | None:
        """A usable deployment that can read the opaque tokens of this call, whatever its tier."""
        scope = self.hints.scope
        if not scope:
            return None
        own = [
            score
            for score in plan.scores
            if score.entry.endpoint.scope == scope and score.entry.id not in self.tried and not self._out(score)
        ]
        return min(own, key=lambda score: score.load(self.hints.stream)) if own else None

    def _cached(self, candidates: list[Score]) -> Score | None:
        """The deployment that has the conversation cached, unless it is much busier than the others."""
        if not self.hints.affinity_key:
            return None
        deployment_id = self.router.conversation(self.hints.affinity_key, self.now)
        for score in candidates:
            if score.entry.id == deployment_id:
                weights = sum(each.entry.weight or 1 for each in candidates)
                share = (sum(each.in_flight for each in candidates) + 1) * (score.entry.weight or 1) / weights
                return score if score.in_flight < BOUNDED_LOAD * share else None
        return None

    def _same(self, attempt: Attempt, error: UpstreamError) -> Attempt | None:
        """The same deployment again, after a pause, when waiting may help and it is the only one."""
        delay = self.router.random.random() * min(BACKOFF_FIRST * 2**self.count, BACKOFF_MOST)
        if error.kind not in SAME_AGAIN or self.proven_since is not None or not self._may_retry(delay):
            return None
        if self._out(attempt.score):
            return None
        return Attempt(self, attempt.score, attempt.plan, "the only one left, again", delay=delay)

    def _panic(self) -> Attempt | None:
        """Everything is open: one call a second finds out whether somebody is back before the time is up."""
        if self.now - self.plan.last_panic < PANIC_EVERY:
            return None
        broken = [
            score
            for score in self.plan.scores
            if score.breaker.state(self.now) in ("open", "half_open")
            and not score.breaker.probing
            and not score.entry.draining
        ]
        if not broken:
            return None
        self.plan.last_panic = self.now
        nearest = min(broken, key=lambda score: score.breaker.open_until)
        return Attempt(self, nearest, self.plan, "all are out: a try", probe=True)

    # Whether

    def _may_retry(self, delay: float) -> bool:
        deadline = self.hints.deadline
        return self.count < MOST_ATTEMPTS and (deadline is None or deadline - self.now - delay >= LEAST_TIME)

    def _taken(self, attempt: Attempt | None) -> Attempt | None:
        """Pay for a retry out of the model's budget."""
        if attempt is None:
            return None
        if not self.plan.budget.take(self.now):
            self._skip(attempt.score, "no retries left in this model's budget")
            return None
        return attempt

    def _learn(self, attempt: Attempt, error: UpstreamError) -> None:
        """What this failure says about the next try.

        Connecting and waiting for the first byte have one budget for all tries. When it is used up, only a deployment
        that answered somebody while we waited is worth going on for: when everything hangs, nobody did.
        """
        entry = attempt.score.entry
        if error.kind in ("credential", "billing") and entry.endpoint.scope:
            self.refused_scopes.add(entry.endpoint.scope)
        budget = {"connect": entry.timeouts.connect, "timeout": entry.timeouts.first_byte}.get(error.kind)
        if budget is None:
            return
        self.waited[error.kind] = self.waited.get(error.kind, 0.0) + self.now - attempt.began
        if self.waited[error.kind] >= (1 - LEAST_SHARE) * budget:
            self.proven_since = attempt.began

    def left_of(self, timeouts: Timeouts) -> Timeouts:
        """These time-outs, less what earlier tries waited; whole again for one that answered somebody meanwhile."""
        if not self.waited or self.proven_since is not None:
            return timeouts
        connect = timeouts.connect - self.waited.get("connect", 0.0)
        first_byte = timeouts.first_byte - self.waited.get("timeout", 0.0)
        return replace(
            timeouts,
            connect=max(connect, LEAST_SHARE * timeouts.connect),
            first_byte=max(first_byte, LEAST_SHARE * timeouts.first_byte),
        )

    def _nothing(self) -> NoDeployment:
        scores = self.plan.scores
        able = [score for score in scores if self.hints.action in score.entry.actions]
        if not able:
            return NoDeployment(self.model.name, "none")
        waits = [wait for score in able if (wait := wait_for(score, self.now)) is not None]
        limited = all(rate_limited(score, self.now) for score in able)
        return NoDeployment(
            self.model.name, "rate_limited" if limited else "cooling", max(0.1, min(waits)) if waits else None
        )

    def _skip(self, score: Score, why: str) -> None:
        """Write down, once per deployment and reason, why it was passed over."""
        entry = score.entry
        if self.skipped.get(entry.id) != why:
            self.skipped[entry.id] = why
            offset = int((self.now - self.hints.started) * 1000)
            self.hints.notes.append(Note(entry.id, entry.name, why, "skipped", offset))


class Attempt:
    """One try at one deployment, lent for the length of a `with`.

    delay: seconds to sleep before entering. model: the public model that answers (a fallback may be another one).
    error: why it failed, afterwards.
    """

    __slots__ = (
        "_committed", "_ended", "_note", "_route", "_ttft", "began", "delay", "error", "model", "next",
        "plan", "probe", "reason", "score",
    )  # fmt: skip

    def __init__(
        self, route: Route, score: Score, plan: Plan, reason: str, *, delay: float = 0.0, probe: bool = False
    ) -> None:
        self._route = route
        self.plan = plan
        self._note: Note | None = None
        self._ttft: float | None = None
        self._committed = self._ended = False
        self.score = score
        self.model = plan.model
        self.reason = reason
        self.delay = delay
        self.probe = probe
        self.error: UpstreamError | None = None
        self.next: Attempt | None = None
        self.began = 0.0

    @property
    def deployment(self) -> DeploymentEntry:
        return self.score.entry

    @property
    def timeouts(self) -> Timeouts:
        """How long this try may wait: connecting and the first byte have one budget for all tries of a call."""
        return self._route.left_of(self.score.entry.timeouts)

    @property
    def deadline(self) -> float:
        """When the whole call ends, tries before this one included: seconds of time.monotonic()."""
        hints = self._route.hints
        end = hints.started + self.score.entry.timeouts.total
        return end if hints.deadline is None else min(end, hints.deadline)

    def __enter__(self) -> DeploymentEntry:
        route, score, entry = self._route, self.score, self.score.entry
        self.began = now = route.router.clock()
        route.tried.add(entry.id)
        route.count += 1
        score.running += 1
        score.minute.add(now, requests=1, tokens=route.hints.prompt_tokens)
        if self.probe:
            score.breaker.probing = True
        self._note = Note(
            entry.id, entry.name, self.reason, "cancelled", int((now - route.hints.started) * 1000)
        )  # "cancelled" until something better is known
        route.hints.notes.append(self._note)
        return entry

    def first_byte(self) -> None:
        """The upstream began to answer. The first call counts."""
        if self._ttft is None:
            self._ttft = self._route.router.clock() - self.began

    def commit(self) -> None:
        """The client hears something from here on: no other try, whatever happens."""
        if not self._committed:
            self._committed = True
            self.score.flowing += 1
            now = self._route.router.clock()
            self._measured(now)
            if self.probe:  # a stream may last for minutes: that it began is proof enough
                self._proved(now)

    def answered(self, tokens: int = 0) -> None:
        """The answer is whole. tokens: prompt and output together, 0 when unknown; counted in the deployment's minute.

        Notes the success now: what happens later, such as a client that leaves before it read everything, is not the
        deployment's doing.
        """
        if self._ended:
            return
        now = self._route.router.clock()
        self._measured(now)
        if tokens:
            self.score.minute.add(now, tokens=tokens - self._route.hints.prompt_tokens)
        self._end("ok", now)

    def empty(self) -> None:
        """The answer is whole, and there is nothing in it. Raises EmptyAnswer when another try is due; without one, an empty
        answer is the answer."""
        if self.model.retry_empty and not self._committed:
            error = EmptyAnswer("protocol", "The answer was empty.")
            self.next = self._route.after(self, error, self._route.router.clock())
            if self.next is not None:
                raise error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        now = self._route.router.clock()
        try:
            if error is None:
                self.answered()
                return False
            if isinstance(error, UpstreamError):
                return self._failed(error, now)
            if not self._ended:
                outcome = "error" if isinstance(error, Exception) else "cancelled"
                self._end(outcome, now, type(error).__name__ if outcome == "error" else "")
            return False
        finally:
            self.score.running -= 1
            if self.probe:
                self.score.breaker.probing = False

    def _failed(self, error: UpstreamError, now: float) -> bool:
        """Note the failure. True, so that it is swallowed, when there is a next try."""
        route = self._route
        self.error = error
        if self._ended:
            return False
        self._end("empty" if isinstance(error, EmptyAnswer) else error.kind, now, error.message, error.provider_status)
        if not isinstance(error, EmptyAnswer) and not self._short(error, now):
            router = route.router
            router.board.failed(self.score, error, now, router.random, probe=self.probe, peers=self.plan.scores)
        if not self._committed and self.next is None:
            self.next = route.after(self, error, now)
        return self.next is not None

    def _short(self, error: UpstreamError, now: float) -> bool:
        """A time-out that says more about the client's deadline than about the deployment."""
        deadline = self._route.hints.deadline
        if error.kind != "timeout" or error.provider_status or deadline is None or now < deadline - 0.05:
            return False
        return self._ttft is not None or now - self.began < 0.95 * self.score.entry.timeouts.first_byte

    def _measured(self, now: float) -> None:
        """A real answer has begun: the time to its first token counts, once."""
        self.first_byte()
        score, hints = self.score, self._route.hints
        if self._note is None or self._note.ttft_ms is not None or self._ttft is None:
            return
        self._note.ttft_ms = int(self._ttft * 1000)
        score.latency(hints.stream).observe(self._ttft, hints.prompt_tokens, now)
        score.last_success = now

    def _end(self, outcome: str, now: float, text: str = "", status: int | None = None) -> None:
        self._ended = True
        self.score.flowing -= self._committed
        score, note, router = self.score, self._note, self._route.router
        if note is not None:
            note.outcome = outcome
            note.duration_ms = int((now - self.began) * 1000)
            note.error, note.provider_status = text[:300], status
        score.ended(outcome, now + router.board.epoch, self._ttft, now - self.began, text[:300])
        if outcome == "ok":
            self._proved(now)
            if self._route.hints.affinity_key:
                router.remember(self._route.hints.affinity_key, score, now)

    def _proved(self, now: float) -> None:
        """The deployment works."""
        breaker = self.score.breaker
        if breaker.succeeded(now, probe=self.probe):
            self._route.router.board.changed(self.score, now)
        if self.probe:
            self.probe = breaker.probing = False


STATE_WORDS = {
    "open": "failing: left alone for {seconds:.1f} s more ({cause})",
    "held": "out of order for {seconds:.0f} s more ({cause})",
    "cooling": "cooling down for {seconds:.1f} s more ({cause})",
    "half_open": "being probed",
}


def kept_away(score: Score, now: float) -> str:
    """Why a breaker keeps calls away, in words."""
    breaker = score.breaker
    words = STATE_WORDS[breaker.state(now)]
    return words.format(seconds=breaker.blocked_until - now, cause=breaker.cause.replace("_", " "))


def wait_for(score: Score, now: float) -> float | None:
    """Seconds until a deployment that is out may take calls again; None when nobody knows."""
    if now < score.breaker.blocked_until:
        return score.breaker.blocked_until - now
    return None if score.entry.draining else 1.0


def rate_limited(score: Score, now: float) -> bool:
    """Is it out because of a rate limit, the vendor's or its own?"""
    if now < score.breaker.blocked_until:
        return score.breaker.state(now) == "cooling" and EFFECTS.get(score.breaker.cause) == "cool"
    return score.limited and not score.breaker.trial and "minute" in score.full(now, 0)


router = Router(board)
attempts = router.attempts
