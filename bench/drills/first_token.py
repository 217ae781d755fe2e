"""Two deployments of 50 ms and 200 ms to the first token, four calls in flight: the router beside the fast one alone, and
beside taking them by turns, in the same run. To meet: at most 1.2 times the fast one alone.

python -m bench.drills.first_token [--calls 400]
"""

from __future__ import annotations

import argparse
import asyncio
from itertools import cycle

from bench.drills.scene import Vendor, configuration, mean, streamed, verdict
from bench.load import Client
from bench.processes import Gateway, gateway

IN_FLIGHT = 4
ROUNDS = 4


async def first_tokens(port: int, wires: list[bytes], calls: int) -> list[float]:
    client, left, turns, found = Client(port), iter(range(calls)), cycle(wires), []

    async def caller() -> None:
        for _ in left:
            answer = await client.call(next(turns))
            assert answer.whole, answer
            found.append(answer.first)

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    client.close()
    return found


async def drill(house: Gateway, fast: Vendor, slow: Vendor, calls: int) -> list[str]:
    wire = {name: streamed(name, house.keys["drill"]) for name in ("fast", "slow", "both")}
    ways = {
        "the fast one alone": [wire["fast"]],
        "the router": [wire["both"]],
        "by turns": [wire["fast"], wire["slow"]],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    async with fast.open(), slow.open():
        for _ in range(ROUNDS):  # by turns, so that what the machine does meanwhile hits all of them
            for name, wires in ways.items():
                found[name] += await first_tokens(house.port, wires, calls // ROUNDS)
    alone = mean(found["the fast one alone"])
    for name, values in found.items():
        print(f"{name:20}{mean(values) * 1000:8.1f} ms{mean(values) / alone:8.2f}")
    ratio = mean(found["the router"]) / alone
    return [f"{ratio:.2f} times the fast one alone"] if ratio > 1.2 else []


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--calls", type=int, default=400)
    options = asked.parse_args()
    fast, slow = Vendor(delay=0.05), Vendor(delay=0.2)
    models = {"fast": ["fast"], "slow": ["slow"], "both": ["fast", "slow"]}
    with gateway(configuration({"fast": fast.url, "slow": slow.url}, models)) as house:
        missed = asyncio.run(drill(house, fast, slow, options.calls))
    verdict(missed)


if __name__ == "__main__":
    main()
