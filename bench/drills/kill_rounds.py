"""`kill -9` while calls are running, and start again, ten times: every call that was answered is in the database, once.

python -m bench.drills.kill_rounds [--rounds 10] [--parallel 16] [--answers 100]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from bench.drills.cancel_storm import until, wire
from bench.load import Client


@dataclass
class Round:
    """Labels of the calls of one round: sent, and answered to the last byte."""

    sent: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)


async def load_until_killed(
    port: int, key: str, models: list[str], kill: Callable[[], object], *, answers: int, parallel: int, name: str
) -> Round:
    """Keep calls in flight, unary and streamed; kill the gateway after so many answers; end with its last breath."""
    seen = Round()
    killed = asyncio.Event()

    async def caller(number: int) -> None:
        client, count = Client(port), 0
        while not killed.is_set():
            label = f"{name}-{number}-{count}"
            count += 1
            seen.sent.add(label)
            told = await client.call(
                wire(models[count % len(models)], key, label, stream=bool(count // len(models) % 2))
            )
            if told.status == 200 and told.whole:
                seen.answered.add(label)
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


def main() -> None:
    from bench.processes import gateway, process
    from tests.upstreams.gemini import Gemini
    from tests.upstreams.serve import serve

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=10)
    asked.add_argument("--parallel", type=int, default=16)
    asked.add_argument("--answers", type=int, default=100)
    given = asked.parse_args()
    with serve(Gemini()) as vendor:
        connection = {
            "name": "gemini", "kind": "gemini", "base_url": vendor.url, "credential": {"api_key": "upstream-key"},
            "allow_private": True,
        }  # fmt: skip
        configuration = {
            "organizations": [{"slug": "drill", "name": "Drill"}],
            "connections": [connection],
            "models": [{"name": "m", "deployments": [{"connection": "gemini", "upstream_model": "gemini-2.5-flash"}]}],
            "keys": [{"organization": "drill", "name": "drill"}],
        }
        rounds: list[Round] = []
        with gateway(json.dumps(configuration)) as running:

            def once(pid: int, name: str) -> None:
                rounds.append(
                    asyncio.run(
                        load_until_killed(
                            running.port, running.keys["drill"], ["m"], lambda: os.kill(pid, signal.SIGKILL),
                            answers=given.answers, parallel=given.parallel, name=name,
                        )
                    )
                )  # fmt: skip
                print(f"{name}: {len(rounds[-1].sent)} sent, {len(rounds[-1].answered)} answered", flush=True)

            once(running.pid, "round-1")
            running.process.wait()
            line = [sys.executable, "manage.py", "serve", "--port", str(running.port)]
            for number in range(2, given.rounds + 1):
                with process(line, running.port, running.variables, log=running.data / "serve.log") as child:
                    once(child.pid, f"round-{number}")
            recorded: Counter[str] = Counter()

            def all_recorded() -> bool:
                with closing(sqlite3.connect(running.data / "gatehouse.sqlite3")) as database:
                    rows = database.execute("SELECT label FROM usage_requestrecord").fetchall()
                recorded.clear()
                recorded.update(label for (label,) in rows)
                return not verdict(rounds, recorded)

            with process(line, running.port, running.variables, log=running.data / "serve.log"):
                until(all_recorded, 60)
        answered = sum(len(each.answered) for each in rounds)
        print(f"{given.rounds} kills, {answered} calls answered, {sum(recorded.values())} records")
        for sentence in (found := verdict(rounds, recorded)):
            print(sentence)
        raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
