"""Redis stopped, then standing still (SIGSTOP), then PostgreSQL stopped, a minute each, under load in two processes.
To meet: while Redis is away the 99th percentile grows by at most 10 ms after the first second; keys with the outage
policy `local` hear nothing of it, those with `deny` hear 503 (never an auth error); counters, holds and ledger agree
afterwards. While PostgreSQL is away no known key hears of it; every call is recorded, at most 30 s after its return.

python -m bench.drills.outages [--seconds 60] [--rate 40] [--patience 30] [--growth 10] [--only redis-stopped]

PostgreSQL and Valkey out of the development wheels.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from bench.drills.scene import (
    Vendor,
    configuration,
    counters,
    in_words,
    percentile,
    processes,
    records,
    running_servers,
    unary,
    verdict,
)
from bench.load import Client, Told, offer
from bench.processes import Gateway

DENY_RATE = 4.0  # calls a second with the key that denies
SETTLING = 1.0  # seconds after the beginning of an outage that are not counted
BLIPS = 0.05  # of the calls with `deny` may be refused at any time: a Redis that takes 50 ms once is away for them
RETURNING = 3.0  # seconds after its end in which keys with `deny` may still be refused
PRICE = {"input": "1", "output": "10"}  # USD per million tokens
LIMITS = [
    {"metric": "spend", "period": "month", "amount": "1000"},
    {"metric": "requests", "period": "day", "amount": 10_000_000},
    {"metric": "requests", "period": "minute", "amount": 1_000_000},
    {"metric": "concurrent", "amount": 10_000},
]


@dataclass
class Outage:
    """away, back: synchronous, run beside the loop. redis: is it the one that limits need?"""

    name: str
    away: Callable[[], object]
    back: Callable[[], object]
    redis: bool


@dataclass
class Drill:
    house: Gateway
    ports: list[int]
    options: argparse.Namespace
    faults: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    async def all(self, outages: list[Outage]) -> None:
        await self.load("warming up", 5)
        for outage in outages:
            await self.through(outage)

    async def through(self, outage: Outage) -> None:
        print(f"{outage.name}:", flush=True)
        usual = p99(await self.load("before", self.options.seconds / 2))
        away = asyncio.create_task(asyncio.to_thread(outage.away))
        began = time.monotonic()
        during = await self.load("away", self.options.seconds, denied=outage.redis)
        await away
        late = p99([each for each in during if each.at - began > SETTLING])
        growth = (late - usual) * 1000
        print(f"    99th percentile {usual * 1000:.1f} ms before, {late * 1000:.1f} ms during: {growth:+.1f} ms")
        if outage.redis and growth > self.options.growth:
            self.faults.append(f"{outage.name}: the 99th percentile grew by {growth:.1f} ms")
        await asyncio.to_thread(outage.back)
        returned = time.monotonic()
        await self.load("returning", RETURNING, denied=outage.redis)
        for what, wrong in (("ledger", self.unrecorded), ("counters", self.astray)):
            found = wrong()
            while found and time.monotonic() < returned + self.options.patience:
                await asyncio.sleep(0.5)
                found = wrong()
            print(f"    {what} {'not ' if found else ''}right {time.monotonic() - returned:.1f} s after its return")
            self.faults += [f"{outage.name}: {each}" for each in found]
        await self.load("back", 5)

    async def load(self, name: str, seconds: float, *, denied: bool = False) -> list[Told]:
        """The answers that the key with `local` got. denied: the other one may be refused with 503."""
        clients = [Client(port) for port in self.ports]

        async def offered(key: str, rate: float) -> list[Told]:
            wires = [unary("m", self.house.keys[key])]
            parts = await asyncio.gather(*(offer(client, wires, rate=rate, seconds=seconds) for client in clients))
            return [each for part in parts for each in part]

        answers, refused = await asyncio.gather(offered("local", self.options.rate), offered("deny", DENY_RATE))
        for client in clients:
            client.close()
        self.answered.update(each.id for each in (*answers, *refused) if each.status == 200)
        print(f"    {name}: local {in_words(answers)}; deny {in_words(refused)}", flush=True)
        spared = len(refused) if denied else BLIPS * len(refused)
        for key, heard, most in (("local", answers, 0.0), ("deny", refused, spared)):
            bad = [each for each in heard if each.status != 200]
            if len(bad) > most or any(each.status != 503 for each in bad):
                self.faults.append(
                    f"{name}: {len(bad)} calls with `{key}` failed: {bad[0].status} {bad[0].body[:200]!r}"
                )
        if name == "away" and denied and all(each.status == 200 for each in refused):
            self.faults.append(f"{name}: no call with `deny` was refused")
        return answers

    def unrecorded(self) -> list[str]:
        """What the ledger lacks, in sentences."""
        try:
            recorded = {str(id_) for (id_,) in records(self.house, "id")}
        except psycopg.OperationalError as error:  # still coming back
            return [str(error)]
        lost = self.answered - recorded
        return [f"{len(lost)} answered calls have no record: {sorted(lost)[:3]}"] if lost else []

    def astray(self) -> list[str]:
        """Which counters hold something, or are not what the ledger says, in sentences."""
        return [
            f"{row['metric']} per {row['period']}: used {row['used']}, held {row['held']}, ledger {row['ledger']}"
            for row in counters(self.house, lag=1)
            if row["held"] or row["drift"] or row["used"] != row["ledger"]
        ]


def p99(answers: list[Told]) -> float:
    return percentile([each.seconds for each in answers], 0.99)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=60.0, help="of each outage")
    asked.add_argument("--rate", type=float, default=40.0, help="calls a second to each process")
    asked.add_argument("--patience", type=float, default=30.0, help="seconds until everything agrees again")
    asked.add_argument("--growth", type=float, default=10.0, help="milliseconds")
    asked.add_argument("--only", choices=["redis-stopped", "redis-silent", "postgres-stopped", "postgres-silent"])
    options = asked.parse_args()
    vendor = Vendor(delay=0.02)
    keys = {"local": {"limits": LIMITS}, "deny": {"limits": LIMITS, "outage_policy": "deny"}}
    text = configuration({"vendor": vendor.url}, {"m": ["vendor"]}, keys=keys, price=PRICE)
    with running_servers() as (servers, variables), processes(text, 2, variables) as (house, ports):
        redis, postgres = servers.running["Valkey"], servers.running["PostgreSQL"]
        outages = [
            Outage("redis-stopped", redis.stop, redis.start, redis=True),
            Outage("redis-silent", redis.pause, redis.resume, redis=True),
            Outage("postgres-stopped", postgres.stop, postgres.start, redis=False),
            Outage("postgres-silent", postgres.pause, postgres.resume, redis=False),
        ]
        drill = Drill(house, ports, options)

        async def run() -> None:
            async with vendor.open():
                await drill.all([each for each in outages if options.only in (None, each.name)])

        asyncio.run(run())
    verdict(drill.faults)


if __name__ == "__main__":
    main()
