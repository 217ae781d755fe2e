"""`kill -9` of one of several processes while calls are running, and start it again, ten times. To meet: every call that
was answered is in the database, once; what a killed process held is given back or charged when its lease is over; and
counters and ledger agree at last.

python -m bench.drills.kill_rounds [--rounds 10] [--processes 3] [--parallel 24] [--answers 100] [--seed 1]

PostgreSQL and Valkey out of the development wheels. A process that is killed holds what it held for 20 s, its lease, and is found
dead with the next heartbeat of another one, 5 s later at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import redis

from bench.drills.cancel_storm import wire
from bench.drills.scene import Vendor, configuration, counters, records, servers, serving
from bench.drills.scene import verdict as end
from bench.load import Client
from bench.processes import Gateway, free_port, gateway, process

LEASE, BEAT, SLACK = 20.0, 5.0, 5.0  # seconds; slack: for a machine that is busy
LIMITS = [
    {"metric": "spend", "period": "month", "amount": "1000"},
    {"metric": "tokens", "period": "day", "amount": 1_000_000_000},
    {"metric": "requests", "period": "day", "amount": 1_000_000},
    {"metric": "concurrent", "amount": 1_000},
]


@dataclass
class Round:
    """Labels of the calls of one round: sent, and answered to the last byte."""

    sent: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)


async def load_until_killed(
    ports: Sequence[int],
    key: str,
    models: list[str],
    kill: Callable[[], object],
    *,
    answers: int,
    parallel: int,
    name: str,
) -> Round:
    """Keep calls in flight at all ports, unary and streamed; kill after so many answers; end when the last call has."""
    seen = Round()
    killed = asyncio.Event()

    async def caller(number: int) -> None:
        client, count = Client(ports[number % len(ports)]), 0
        while not killed.is_set():
            label = f"{name}-{number}-{count}"
            count += 1
            seen.sent.add(label)
            told = await client.call(
                wire(models[count % len(models)], key, label, stream=bool(count // len(models) % 2))
            )
            if told.status == 200 and told.whole:
                seen.answered.add(label)
            elif told.status and told.status != 200:
                raise SystemExit(f"A call was refused: {told.status} {told.body[:300]!r}")
            if len(seen.answered) >= answers and not killed.is_set():
                killed.set()
                kill()
        client.close()

    await asyncio.gather(*[caller(number) for number in range(parallel)])
    return seen


def verdict(rounds: list[Round], recorded: Counter[str]) -> list[str]:
    """What is wrong, in sentences; nothing is good."""
    answered = set[str]().union(*[each.answered for each in rounds])
    sent = set[str]().union(*[each.sent for each in rounds])
    lost = answered - recorded.keys()
    doubled = [label for label, count in recorded.items() if count != 1]
    strange = recorded.keys() - sent
    found = []
    if lost:
        found.append(f"{len(lost)} answered calls have no record: {sorted(lost)[:3]}")
    if doubled:
        found.append(f"{len(doubled)} calls have several records: {sorted(doubled)[:3]}")
    if strange:
        found.append(f"{len(strange)} records belong to no call: {sorted(strange)[:3]}")
    return found


class Leases:
    """What calls hold, read in Redis past the product; and since when some of it is held by nobody."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.killed: dict[bytes, float] = {}  # call: time.monotonic() at which its process was killed

    def held(self) -> set[bytes]:
        """Calls under way, as far as Redis knows: state 0 or 1 (keys/limits/scripts.py)."""
        return {
            call
            for name in self.redis.scan_iter("{gatehouse:limits:*}:leases")
            for call, lease in self.redis.hgetall(name).items()
            if lease.split(b" ", 2)[1] in b"01"
        }

    def orphaned(self, at: float) -> int:
        """All other calls have ended: what is still held was the killed process's. Returns how many."""
        found = self.held() - self.killed.keys()
        self.killed.update(dict.fromkeys(found, at))
        return len(found)

    def phantoms(self) -> list[bytes]:
        """Held longer than a lease lasts after its holder's death."""
        now, held = time.monotonic(), self.held()
        return [call for call, at in self.killed.items() if now - at > LEASE + BEAT + SLACK and call in held]


class Drill:
    def __init__(self, house: Gateway, vendor: Vendor, stack: ExitStack, options: argparse.Namespace) -> None:
        self.house, self.vendor, self.stack, self.options = house, vendor, stack, options
        self.chance = random.Random(options.seed)
        self.leases = Leases(house.variables["REDIS_URL"])
        self.rounds: list[Round] = []
        self.faults: list[str] = []
        self.pids: dict[int, int] = {house.port: house.pid}
        for _ in range(options.processes - 1):
            self.start(free_port())

    def start(self, port: int) -> None:
        started = process(serving(port), port, self.house.variables, log=self.house.data / "serve.log")
        self.pids[port] = self.stack.enter_context(started).pid

    def all(self) -> None:
        for number in range(self.options.rounds):
            self.once(f"round-{number}")
        until = time.monotonic() + LEASE + BEAT + SLACK + 1
        while self.leases.held() and time.monotonic() < until:
            time.sleep(0.5)
            self.look()
        self.look()

    def once(self, name: str) -> None:
        port = self.chance.choice(list(self.pids))
        killed = 0.0

        def kill() -> None:
            nonlocal killed
            os.kill(self.pids[port], signal.SIGKILL)
            killed = time.monotonic()

        async def load() -> Round:
            async with self.vendor.open():
                return await load_until_killed(
                    list(self.pids), self.house.keys[name], ["m"], kill,
                    answers=self.options.answers, parallel=self.options.parallel, name=name,
                )  # fmt: skip

        self.rounds.append(asyncio.run(load()))
        time.sleep(1)  # the living settle what they hold
        left = self.leases.orphaned(killed)
        seen = self.rounds[-1]
        print(f"{name}: {len(seen.sent)} sent, {len(seen.answered)} answered, {left} left holding", flush=True)
        self.look()
        self.start(port)

    def look(self) -> None:
        if found := self.leases.phantoms():
            self.faults.append(f"{len(found)} holds outlived their lease: {found[:3]}")

    def unrecorded(self) -> list[str]:
        return verdict(self.rounds, Counter(label for (label,) in records(self.house, "label") if label))

    def astray(self) -> list[str]:
        return [
            f"{row['metric']} per {row['period']}: used {row['used']}, held {row['held']}, ledger {row['ledger']}"
            for row in counters(self.house)
            if row["held"] or row["drift"] or row["used"] != row["ledger"]
        ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=10)
    asked.add_argument("--processes", type=int, default=3)
    asked.add_argument("--parallel", type=int, default=24)
    asked.add_argument("--answers", type=int, default=100)
    asked.add_argument("--seed", type=int, default=1)
    options = asked.parse_args()
    keys = {f"round-{number}": {"limits": LIMITS} for number in range(options.rounds)}
    vendor = Vendor()
    with servers() as variables, ExitStack() as stack:
        text = configuration({"vendor": vendor.url}, {"m": ["vendor"]}, keys=keys, price={"input": 1, "output": 10})
        drill = Drill(stack.enter_context(gateway(text, variables=variables)), vendor, stack, options)
        drill.all()
        for what, wrong in (("ledger", drill.unrecorded), ("counters", drill.astray)):
            begun, found = time.monotonic(), wrong()
            while found and time.monotonic() < begun + 90:  # counters are compared a last time after a minute
                time.sleep(1)
                found = wrong()
            print(f"{what} {'not ' if found else ''}right {time.monotonic() - begun:.0f} s later", flush=True)
            drill.faults += found
        answered = sum(len(each.answered) for each in drill.rounds)
        print(f"{options.rounds} kills, {answered} calls answered, {len(drill.leases.killed)} left holding")
        end(drill.faults)


if __name__ == "__main__":
    main()
