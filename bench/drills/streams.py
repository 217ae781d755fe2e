"""Streams with cancels and failures in between, and a process killed in the middle: what stays in flight. To meet: nothing.

python -m bench.drills.streams [--streams 1000]

PostgreSQL and Valkey out of the development wheels; two processes share them, the second one is killed (SIGKILL).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress

import redis

from bench.drills.scene import Vendor, configuration, in_words, servers, streamed, until, verdict
from bench.load import Client
from bench.processes import Gateway, free_port, gateway, process, tree

AT_ONCE = 50  # streams at a time to each process


def in_flight(redis_url: str) -> int:
    """What all processes report to have in flight."""
    with redis.Redis.from_url(redis_url) as client:
        reports = client.hgetall("{gatehouse:routing}:reports").values()
    found = [json.loads(report.partition(b" ")[2]) for report in reports]
    return int(sum(each[0] for report in found for each in report.values()))


def open_files(pid: int) -> int:
    return sum(len(os.listdir(f"/proc/{each}/fd")) for each in tree(pid))


async def many(port: int, wire: bytes, count: int) -> dict[str, int]:
    """Streams, a third of which the client leaves at a random moment. How they ended, counted."""
    chance, client, ends = random.Random(port), Client(port), {"whole": 0, "broken": 0, "left": 0}
    left = iter(range(count))

    async def caller() -> None:
        for number in left:
            call = asyncio.ensure_future(client.call(wire))
            if number % 3 == 0:
                await asyncio.wait([call], timeout=chance.uniform(0, 0.4))
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                ends["left"] += 1
                continue
            ends["whole" if (await call).whole else "broken"] += 1

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    client.close()
    return ends


async def drill(house: Gateway, port: int, second: subprocess.Popen[bytes], vendor: Vendor, count: int) -> list[str]:
    redis_url, wire = house.variables["REDIS_URL"], streamed("m", house.keys["drill"])
    async with vendor.open():
        await many(house.port, wire, 20)
        before = open_files(house.pid)
        here = asyncio.create_task(many(house.port, wire, count // 2))
        there = asyncio.create_task(many(port, wire, count // 2))
        await until(lambda: len(vendor.calls) >= count // 2)
        most = in_flight(redis_url)
        second.kill()
        killed = time.monotonic()
        print(
            f"in this process: {await here}; in the one that was killed half-way: {await there}; in flight then: {most}"
        )
        await until(lambda: not in_flight(redis_url), every=0.1)
        left = in_flight(redis_url)
        print(f"in flight at last: {left}, {time.monotonic() - killed:.1f} s after the kill")
        files = [before]
        for _ in range(3):  # a hundred connections to upstreams stay open, idle; that they do not grow is the point
            client = Client(house.port)
            answers = await asyncio.gather(*(client.call(wire) for _ in range(100)))
            client.close()
            await asyncio.sleep(1)
            files.append(open_files(house.pid))
            print(f"100 streams afterwards: {in_words(answers)}")
        print(f"open files at the beginning, and after each hundred: {files}")
    grown = files[-1] > files[1] + 20
    return [
        *([f"{left} stay in flight"] if left else []),
        *([f"open files grow: {files}"] if grown else []),
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--streams", type=int, default=1000)
    options = asked.parse_args()
    vendor = Vendor(delay=0.02, pieces=20, pace=0.02)
    vendor.cut_every, vendor.break_every = 11, 13
    text = configuration(dict.fromkeys("abc", vendor.url), {"m": "abc"})
    with servers() as variables, gateway(text, variables=variables) as house:
        port = free_port()
        line = [sys.executable, "manage.py", "serve", "--port", str(port)]
        with process(line, port, house.variables) as second:
            missed = asyncio.run(drill(house, port, second, vendor, options.streams))
    verdict(missed)


if __name__ == "__main__":
    main()
