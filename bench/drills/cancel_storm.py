"""Two thousand clients that leave at random moments, unary and streamed: nothing leaks, every admitted call is recorded,
and the gateway answers the next hundred at once.

python -m bench.drills.cancel_storm [--calls 2000] [--parallel 100] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from bench.load import request

LONGEST = 0.3  # seconds until the last of them leaves; an answer takes about as long
PROMPT = "[[delay:0.03]] [[long:12]] [[pace:0.01]]"


def wire(model: str, key: str, label: str, *, stream: bool) -> bytes:
    """A call that both sides know by its label: the vendor from the prompt, the ledger from the header."""
    action = "streamGenerateContent?alt=sse" if stream else "generateContent"
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": f"{PROMPT} {label}"}]}]}).encode()
    headers = {"x-goog-api-key": key, "x-gatehouse-user": label}
    return request(f"/v1beta/models/{model}:{action}", body, headers)


@dataclass
class Seen:
    """What the clients heard. labels: of all calls; answered: of those that had their whole answer; statuses: by label."""

    labels: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    statuses: dict[str, int] = field(default_factory=dict)


async def storm(
    port: int, keys: Sequence[str], models: Sequence[str], *, calls: int, parallel: int, seed: int, name: str = "storm"
) -> Seen:
    """The keys' secrets by turns. Every second call is a stream. Each client leaves after a random time, a few in the middle of their own request, and
    every eighth hears its answer to the end."""
    chance, seen, gate = random.Random(seed), Seen(), asyncio.Semaphore(parallel)

    async def one(number: int) -> None:
        label = f"{name}-{number}"
        seen.labels.append(label)
        key = keys[number % len(keys)]
        sent = wire(models[number % len(models)], key, label, stream=bool(number // len(models) % 2))
        async with gate:
            patience = 60.0 if number % 8 == 0 else chance.random() * LONGEST
            await leave(port, sent, label, patience, cut=number % 8 != 0 and chance.random() < 0.1, seen=seen)

    await asyncio.gather(*[one(number) for number in range(calls)])
    return seen


async def leave(port: int, sent: bytes, label: str, after: float, *, cut: bool, seen: Seen) -> None:
    """Send (or only half of it), listen for so many seconds, and hang up without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(after):
            writer.write(sent[: len(sent) - 20] if cut else sent)
            head = await reader.readuntil(b"\r\n\r\n")
            seen.statuses[label] = int(head.split(b" ", 2)[1])
            if length := re.search(rb"content-length: (\d+)", head.lower()):
                await reader.readexactly(int(length[1]))
            else:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            seen.answered.add(label)
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


async def at_once(port: int, key: str, models: Sequence[str], calls: int, name: str) -> Seen:
    """So many calls at the same moment, heard to the end."""
    seen = Seen()

    async def one(number: int) -> None:
        label = f"{name}-{number}"
        seen.labels.append(label)
        sent = wire(models[number % len(models)], key, label, stream=bool(number // len(models) % 2))
        await leave(port, sent, label, 60.0, cut=False, seen=seen)

    await asyncio.gather(*[one(number) for number in range(calls)])
    return seen


@dataclass(frozen=True)
class Figures:
    """What a process holds."""

    files: int
    tasks: int
    calls: int

    def within(self, other: Figures) -> bool:
        return self.files <= other.files and self.tasks <= other.tasks and self.calls <= other.calls


def figures(port: int, pid: int, token: str = "") -> Figures:
    """Open descriptors from /proc, tasks and calls in flight from /metrics (which is asked on one connection more).
    token: METRICS_TOKEN."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {token}"})
    with closing(urllib.request.urlopen(asked)) as answer:
        text = answer.read().decode()
    return Figures(
        len(os.listdir(f"/proc/{pid}/fd")), number(text, "gatehouse_tasks"), number(text, "gatehouse_calls_in_flight")
    )


def number(text: str, name: str) -> int:
    found = re.search(rf"^{name} ([\d.]+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def until(happened: Callable[[], Any], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    from bench.processes import gateway
    from tests.upstreams.gemini import Gemini
    from tests.upstreams.serve import serve

    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--calls", type=int, default=2000)
    asked.add_argument("--parallel", type=int, default=100)
    asked.add_argument("--seed", type=int, default=1)
    given = asked.parse_args()
    with serve(Gemini()) as vendor:
        connection = {
            "name": "gemini", "kind": "gemini", "base_url": vendor.url, "credential": {"api_key": "upstream-key"},
            "allow_private": True,
        }  # fmt: skip
        deployment = {"connection": "gemini", "upstream_model": "gemini-2.5-flash"}
        configuration = {
            "organizations": [{"slug": "drill", "name": "Drill"}],
            "connections": [connection],
            "models": [{"name": "m", "deployments": [deployment]}],
            # The ledger keeps a thousand labels of a key and day.
            "keys": [{"organization": "drill", "name": f"drill-{number}"} for number in range(1 + given.calls // 500)],
        }
        with gateway(json.dumps(configuration)) as running:
            keys = list(running.keys.values())
            key = keys[0]
            asyncio.run(at_once(running.port, key, ["m"], given.parallel, "before"))
            before = figures(running.port, running.pid)
            seen = asyncio.run(
                storm(running.port, keys, ["m"], calls=given.calls, parallel=given.parallel, seed=given.seed)
            )
            settled = until(lambda: figures(running.port, running.pid).within(before))
            after = figures(running.port, running.pid)
            reached = {label for each in vendor.requests if (label := label_in(each.body, "storm"))}
            recorded: dict[str, int] = {}

            def all_recorded() -> bool:
                with closing(sqlite3.connect(running.data / "gatehouse.sqlite3")) as database:
                    found = database.execute(
                        "SELECT label, COUNT(*) FROM usage_requestrecord GROUP BY label"
                    ).fetchall()
                recorded.update(found)
                return reached <= recorded.keys()

            complete = until(all_recorded)
            later = asyncio.run(at_once(running.port, key, ["m"], 100, "after"))
            doubled = [label for label, count in recorded.items() if count != 1]
            print(f"{given.calls} calls, {len(seen.answered)} answered, {given.calls - len(seen.answered)} left")
            print(
                f"reached the vendor: {len(reached)}, without a record: {len(reached - recorded.keys())}, twice: {len(doubled)}"
            )
            print(f"before: {before}\nafter:  {after}")
            print(f"100 at once afterwards: {sum(code == 200 for code in later.statuses.values())} succeeded")
            good = settled and complete and not doubled and len(later.answered) == 100
            raise SystemExit(0 if good else 1)


def label_in(body: bytes, name: str) -> str:
    found = re.search(rf"{name}-\d+".encode(), body)
    return found[0].decode() if found else ""


if __name__ == "__main__":
    main()
