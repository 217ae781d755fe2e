"""The router in virtual time: real router, simulated deployments, no network and no waiting.

A deployment serves `slots` calls at once and queues the rest, so that too much traffic makes it slow, as in life.
Times are log-normal. Everything comes from one seed: the same figures on every machine.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from routing.backends.base import Backend, Endpoint
from routing.catalog import DeploymentEntry, ModelEntry, Timeouts
from routing.errors import Kind, NoDeployment, UpstreamError
from routing.router import Attempt, Hints, Router
from routing.scores_memory import Board

Process = Generator[float, None, None]


class Place(Backend):
    """A backend without an address: nothing is ever sent."""

    label = "Simulated"
    language = "gemini"


PLACE = Place()


def deployment(name: str, **given: object) -> DeploymentEntry:
    """A deployment as the catalog would hold it."""
    fields: dict[str, object] = {
        "id": name, "name": name, "model": "m", "connection": name, "kind": "simulated", "backend": PLACE,
        "endpoint": Endpoint("simulated", "http://127.0.0.1", "m", connection_id=name, scope=f"scope-{name}"),
        "upstream_model": "m", "base_model": "m", "timeouts": Timeouts(3.0, 60.0, 60.0, 600.0),
    }  # fmt: skip
    return DeploymentEntry(**(fields | given))  # type: ignore[arg-type]  # the fields of the dataclass, by name


def public_model(*deployments: DeploymentEntry, **given: object) -> ModelEntry:
    fields: dict[str, object] = {"id": "m", "name": "m", "organization_id": None, "deployments": deployments}
    return ModelEntry(**(fields | given))  # type: ignore[arg-type]  # the fields of the dataclass, by name


class World:
    """A clock and what happens when. A process is a generator that yields how many seconds it waits."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 1_000.0
        self.random = Random(seed)
        self._events: list[tuple[float, int, Process]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    def start(self, process: Process, after: float = 0.0) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + after, self._count, process))

    def run(self) -> None:
        """Until nothing happens any more."""
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            pause = next(process, None)
            if pause is not None:
                self.start(process, pause)


@dataclass
class Upstream:
    """What a deployment does. seconds: median of a whole answer, a fifth of it until the first token.

    failing: share of the calls that fail (while `fails` says so), after `failing_after` seconds.
    """

    seconds: float = 0.4
    spread: float = 0.5
    slots: int = 60
    failing: float = 0.0
    failing_after: float = 0.02
    kind: Kind = "server"
    fails: Callable[[float], bool] = lambda now: True
    served: list[float] = field(default_factory=list)  # when calls arrived
    _free: list[float] = field(default_factory=list)

    def answer(self, world: World, begun: Callable[[], None]) -> Process:
        """One answer; `begun` is called with its first token. Raises UpstreamError."""
        self.served.append(world.now)
        if self.failing and self.fails(world.now) and world.random.random() < self.failing:
            yield self.failing_after
            raise UpstreamError(self.kind, "simulated", provider_status=500)
        first, rest = (self.seconds * share * self._chance(world) for share in (0.2, 0.8))
        start = world.now
        if len(self._free) < self.slots:
            heapq.heappush(self._free, start + first + rest)
        else:
            start = max(start, self._free[0])
            heapq.heapreplace(self._free, start + first + rest)
        yield start - world.now + first
        begun()
        yield rest

    def _chance(self, world: World) -> float:
        return math.exp(world.random.gauss(0.0, self.spread))


@dataclass
class Result:
    """What the clients saw."""

    calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)  # seconds to the first token
    total: list[float] = field(default_factory=list)  # seconds to the end

    @property
    def error_share(self) -> float:
        return self.errors.total() / self.calls


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


@dataclass
class Simulation:
    """Calls with random gaps through one router. `upstreams` by deployment id."""

    model: ModelEntry
    upstreams: dict[str, Upstream]
    rate: float = 200.0
    seconds: float = 60.0
    seed: int = 1
    result: Result = field(default_factory=Result)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.began = self.world.now
        self.board = Board(self.world.clock, epoch=0.0)
        self.router = Router(self.board, random=Random(self.seed + 1))

    def run(self, call: Callable[[], Process] | None = None) -> Result:
        self.world.start(self._arrivals(call or self._call))
        self.world.run()
        return self.result

    def share(self, name: str, after: float = 5.0) -> float:
        """Share of all upstream calls, from `after` seconds on, that went to one deployment."""
        counted = {
            each: sum(at >= self.began + after for at in upstream.served) for each, upstream in self.upstreams.items()
        }
        return counted[name] / (sum(counted.values()) or 1)

    def random_choice(self) -> Process:
        """What routing is compared with: any deployment, no memory, no second try."""
        began, world = self.world.now, self.world
        entry = world.random.choice(self.model.deployments)
        try:
            yield from self.upstreams[entry.id].answer(world, lambda: self.result.first.append(world.now - began))
            self.result.total.append(world.now - began)
        except UpstreamError as error:
            self.result.errors[error.kind] += 1

    def _arrivals(self, call: Callable[[], Process]) -> Process:
        end = self.world.now + self.seconds
        while self.world.now < end:
            self.result.calls += 1
            self.world.start(call())
            yield self.world.random.expovariate(self.rate)

    def _call(self) -> Process:
        began, world = self.world.now, self.world
        hints = Hints(stream=True, prompt_tokens=500, started=began)
        try:
            for attempt in self.router.attempts(self.model, hints):
                yield attempt.delay
                with attempt as entry:
                    yield from self.upstreams[entry.id].answer(world, partial(self._begun, attempt, began))
                    attempt.answered()
                    self.result.total.append(world.now - began)
                    return
        except UpstreamError as error:
            self.result.errors[error.kind] += 1
        except NoDeployment as error:
            self.result.errors[error.reason] += 1

    def _begun(self, attempt: Attempt, began: float) -> None:
        attempt.first_byte()
        attempt.commit()
        self.result.first.append(self.world.now - began)


STRATEGIES = ("latency", "weighted", "least_busy", "cheapest", "failover")


def four(strategy: str = "latency", max_parallel: int | None = None, **given: Any) -> Simulation:
    """Issue figures: 200 calls a second, four deployments, one three times slower, one failing 90 % in 20 ms."""
    upstreams = {
        "failing": Upstream(failing=0.9),
        "good": Upstream(),
        "fine": Upstream(),
        "slow": Upstream(seconds=3 * Upstream.seconds),
    }
    model = public_model(*(deployment(name, max_parallel=max_parallel) for name in upstreams), strategy=strategy)
    return Simulation(model, upstreams, **given)


@dataclass
class Row:
    """One line of the table."""

    name: str
    simulation: Simulation

    @property
    def figures(self) -> tuple[float, float, float, float, float]:
        """(error share, share to the failing one after 5 s, p50 and p99 of the first token, p99 of the whole answer)"""
        simulation, result = self.simulation, self.simulation.result
        return (
            result.error_share, simulation.share("failing"),
            quantile(result.first, 0.5), quantile(result.first, 0.99), quantile(result.total, 0.99),
        )  # fmt: skip


def table(seed: int = 1, seconds: float = 60.0) -> list[Row]:
    """Random choice without a router first, then every strategy, under the same seed."""
    chance = four(seed=seed, seconds=seconds)
    chance.run(chance.random_choice)
    rows = [Row("random, no router", chance)]
    for strategy in STRATEGIES:
        simulation = four(strategy, seed=seed, seconds=seconds)
        simulation.run()
        rows.append(Row(strategy, simulation))
    for strategy in ("weighted", "failover"):  # with their slots declared, what is full is passed over
        simulation = four(strategy, Upstream.slots, seed=seed, seconds=seconds)
        simulation.run()
        rows.append(Row(f"{strategy}, parallel calls limited", simulation))
    return rows


def markdown(rows: list[Row]) -> str:
    lines = [
        "| choice | errors seen | calls to the failing one after 5 s | first token p50 | first token p99 | answer p99 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors, failing, half, first, total = row.figures
        lines.append(f"| {row.name} | {errors:.2%} | {failing:.2%} | {half:.2f} s | {first:.2f} s | {total:.2f} s |")
    return "\n".join(lines)
