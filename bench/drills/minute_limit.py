"""A hundred requests a minute over four processes, a thousand offered in random spellings of the model's name.
To meet: exactly as many pass as the limit says, in any minute, and everything else is a 429.

python -m bench.drills.minute_limit [--limit 100] [--calls 1000] [--seconds 20] [--processes 4] [--seed 1]

PostgreSQL and Valkey out of the development wheels.
"""

from __future__ import annotations

import argparse
import asyncio
import random

from bench.drills.scene import ASK, Vendor, configuration, in_words, processes, servers, verdict
from bench.load import Client, Told, offer, request

NAMES = ("m", "quick")  # the model and its alias
PATHS = ("v1beta", "v1", "v1alpha", "v1beta1/projects/p/locations/l/publishers/google")


def spelt(chance: random.Random, key: str) -> bytes:
    """One call, its model written as clients may write it: version, project path, alias, letters percent-encoded."""
    path, name = chance.choice(PATHS), chance.choice(NAMES)
    name = "".join(f"%{ord(letter):02{chance.choice('xX')}}" if chance.random() < 0.3 else letter for letter in name)
    stream = chance.random() < 0.5
    action = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return request(f"/{path}/models/{name}:{action}", ASK, {"x-goog-api-key": key})


async def drill(ports: list[int], key: str, vendor: Vendor, options: argparse.Namespace) -> list[Told]:
    chance = random.Random(options.seed)
    share = options.calls // len(ports)
    async with vendor.open():
        clients = [Client(port) for port in ports]
        loads = [
            offer(
                client,
                [spelt(chance, key) for _ in range(share)],
                rate=share / options.seconds,
                seconds=options.seconds,
            )
            for client in clients
        ]
        answers = [each for part in await asyncio.gather(*loads) for each in part]
        for client in clients:
            client.close()
    return answers


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--limit", type=int, default=100)
    asked.add_argument("--calls", type=int, default=1000)
    asked.add_argument("--seconds", type=float, default=20.0, help="at most 50: all of it lies in one minute")
    asked.add_argument("--processes", type=int, default=4)
    asked.add_argument("--seed", type=int, default=1)
    options = asked.parse_args()
    vendor = Vendor(delay=0.02)
    keys = {"drill": {"limits": [{"metric": "requests", "period": "minute", "amount": options.limit}]}}
    text = configuration({"vendor": vendor.url}, {"m": ["vendor"]}, keys=keys, aliases=["quick"])
    with servers() as variables, processes(text, options.processes, variables) as (house, ports):
        answers = asyncio.run(drill(ports, house.keys["drill"], vendor, options))
    passed = sum(each.status == 200 for each in answers)
    print(
        f"{len(answers)} calls to {len(ports)} processes: {in_words(answers)}; {len(vendor.calls)} reached the vendor"
    )
    faults = []
    if passed != options.limit or len(vendor.calls) != options.limit:
        faults.append(f"{passed} passed and {len(vendor.calls)} reached the vendor, not {options.limit}")
    if strange := [each for each in answers if each.status not in (200, 429)]:
        faults.append(f"{len(strange)} answers are neither 200 nor 429: {strange[0].body[:200]!r}")
    verdict(faults)


if __name__ == "__main__":
    main()
