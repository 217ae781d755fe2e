"""Each fault on one of three deployments under load, then on all three: what clients see, and how it heals.

python -m bench.drills.router_faults                                   a minute each, some 20 minutes
python -m bench.drills.router_faults --seconds 10 --faults reset,cut   shorter, and only these

Half of the calls are streams. Errors: answers other than whole ones, streams that had begun left out of account (they
are the last column but one). Share: of the faulty one, in the second half of its fault; and how long after healing it has
80 % of a third again. To meet: at most 0.5 % errors, its share within 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from bench.drills.scene import Vendor, configuration, in_words, streamed, unary, verdict
from bench.load import Client, Told, offer
from bench.processes import Gateway, gateway, memory
from tests.faults import FAULTS, HEALTHY, FaultProxy

CONNECT, FIRST_BYTE = 3, 5  # seconds
WINDOW = 5.0  # seconds over which a share is taken
MOST_ERRORS, MOST_MEMORY = 0.005, 24 * 2**20  # share of the calls, bytes
TOLD = {
    "refuse": (503, CONNECT),
    "full backlog": (503, CONNECT),
    "black hole": (504, FIRST_BYTE),
}  # when it is all of them


def name_of(fault: str) -> str:
    return fault.replace(" ", "-")


def failed(answers: Sequence[Told]) -> tuple[int, int]:
    """(errors, streams that broke after they had begun)."""
    bad = [each for each in answers if each.status != 200 or not each.whole]
    begun = [each for each in bad if each.status == 200 and each.first]
    return len(bad) - len(begun), len(begun)


async def one_of_three(house: Gateway, proxies: list[FaultProxy], fault: str, seconds: float, rate: float) -> list[str]:
    """What was missed, in sentences."""
    key, model, client = house.keys["drill"], f"one-{name_of(fault)}", Client(house.port)
    wires, bad = [unary(model, key), streamed(model, key)], proxies[0]

    async def share(length: float) -> tuple[list[Told], float]:
        before = [proxy.exchanges for proxy in proxies]
        answers = await offer(client, wires, rate=rate, seconds=length)
        seen = [proxy.exchanges - earlier for proxy, earlier in zip(proxies, before, strict=True)]
        return answers, seen[0] / max(1, sum(seen))

    await share(WINDOW)
    start = memory(house.pid)
    bad.set(FAULTS[fault])
    answers, _ = await share(seconds / 2)
    more, at_last = await share(seconds / 2)
    end = memory(house.pid)
    bad.set(HEALTHY)
    healed, again = time.monotonic(), ""
    while time.monotonic() - healed < 60 and not again:
        later, part = await share(WINDOW)
        more += later
        again = f"{time.monotonic() - healed:.0f} s" if part >= 0.8 / 3 else ""
    client.close()
    answers += more
    errors, begun = failed(answers)
    print(
        f"{fault:14}{len(answers):7}{errors:8}{errors / len(answers):9.2%}{at_last:12.1%}{again or 'not in 60 s':>14}"
        f"{begun:8}{(end - start) / 2**20:+9.1f} MB",
        flush=True,
    )
    said = in_words([each for each in answers if each.status != 200])
    missed = {
        f"{errors} of {len(answers)} calls failed ({said})": errors > MOST_ERRORS * len(answers),
        "its share was not back within 60 s": not again,
        f"memory grew by {(end - start) / 2**20:.0f} MB": end - start > MOST_MEMORY,
    }
    return [f"{fault}: {sentence}" for sentence, holds in missed.items() if holds]


async def all_of_them(house: Gateway, proxies: list[FaultProxy], fault: str, calls: int = 20) -> list[str]:
    """Clients that come at once: what they are told, and the longest that one waited. What was missed, in sentences."""
    client = Client(house.port)
    wire = unary(f"all-{name_of(fault)}", house.keys["drill"])
    for proxy in proxies:
        proxy.set(FAULTS[fault])
    answers = await asyncio.gather(*(client.call(wire) for _ in range(calls)))
    for proxy in proxies:
        proxy.set(HEALTHY)
    client.close()
    longest, (status, within) = max(each.seconds for each in answers), TOLD[fault]
    said = f"{in_words(answers)}, the longest {longest:.1f} s"
    print(f"{fault:14}{calls:7} calls: {said}", flush=True)
    met = longest <= within + 1 and all(each.status == status for each in answers)
    return [] if met else [f"all {fault}: {said}, not {status} within {within + 1} s"]


async def drill(house: Gateway, vendor: Vendor, proxies: list[FaultProxy], options: argparse.Namespace) -> list[str]:
    missed = []
    async with vendor.open():
        for proxy in proxies:
            await proxy.open()
        print(
            f"{'one of three':14}{'calls':>7}{'errors':>8}{'':9}{'its share':>12}{'share again':>14}{'begun':>8}{'memory':>12}"
        )
        for fault in options.faults.split(","):
            missed += await one_of_three(house, proxies, fault, options.seconds, options.rate)
        print(f"\nall three (connect {CONNECT} s, first byte {FIRST_BYTE} s)")
        for fault in TOLD:
            missed += await all_of_them(house, proxies, fault)
        for proxy in proxies:
            await proxy.close()
    return missed


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--rate", type=float, default=40.0, help="calls a second")
    asked.add_argument("--faults", default=",".join(FAULTS))
    options = asked.parse_args()
    vendor = Vendor()
    proxies = [FaultProxy(vendor.port) for _ in range(3)]
    places = {name: proxy.url for name, proxy in zip("abc", proxies, strict=True)}
    models = {f"{which}-{name_of(fault)}": "abc" for which in ("one", "all") for fault in FAULTS}
    variables = {
        "GATEHOUSE_UPSTREAM_CONNECT_TIMEOUT": str(CONNECT),
        "GATEHOUSE_UPSTREAM_FIRST_BYTE_TIMEOUT": str(FIRST_BYTE),
    }
    with gateway(configuration(places, models), variables=variables) as house:
        missed = asyncio.run(drill(house, vendor, proxies, options))
    verdict(missed)


if __name__ == "__main__":
    main()
