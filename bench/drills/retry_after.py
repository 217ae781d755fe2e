"""429 with Retry-After: when the next call of any of two processes reaches that deployment. To meet: not before.

The other process hears of it over Redis, about a millisecond later. A call that reaches the deployment within
ON_ITS_WAY after the refusal had been sent before; whatever comes later, and before the time is over, is too early.

python -m bench.drills.retry_after [--wait 7] [--rounds 3]

PostgreSQL and Valkey out of the development wheels. Both processes are under load all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from bench.drills.scene import Vendor, configuration, in_words, servers, unary, until, verdict
from bench.load import Client, offer
from bench.processes import Gateway, free_port, gateway, process

RATE = 20.0  # calls a second to each process
ON_ITS_WAY = 0.02  # seconds


async def drill(house: Gateway, second: int, limited: Vendor, spare: Vendor, wait: int, rounds: int) -> list[str]:
    wire, missed = unary("m", house.keys["drill"]), []
    async with limited.open(), spare.open():
        clients = [Client(house.port), Client(second)]
        await asyncio.gather(*(offer(each, [wire], rate=RATE, seconds=2) for each in clients))
        for _ in range(rounds):
            limited.status, limited.retry_after = 429, wait
            before = len(limited.calls)
            loads = asyncio.gather(*(offer(each, [wire], rate=RATE, seconds=wait + 4) for each in clients))
            await until(lambda before=before: len(limited.calls) > before, every=0.005)
            await asyncio.sleep(limited.delay + 0.001)  # the 429 leaves now
            limited.status = 200
            answers = [each for part in await loads for each in part]
            refused = limited.calls[before] + limited.delay
            later = [at - refused for at in limited.calls[before + 1 :] if at > refused]  # the others were under way
            on_their_way = [at for at in later if at < ON_ITS_WAY]
            early = [f"{at * 1000:.0f} ms" for at in later if ON_ITS_WAY <= at < wait]
            missed += [f"a call reached it {at} after the refusal" for at in early]
            print(
                f"429 with Retry-After {wait}: on their way {len(on_their_way)}, next call after "
                f"{min(later[len(on_their_way) :], default=float('inf')):.2f} s; too early: {', '.join(early) or 'none'}; answers: {in_words(answers)}",
                flush=True,
            )
        for client in clients:
            client.close()
    return missed


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--wait", type=int, default=7)
    asked.add_argument("--rounds", type=int, default=3)
    options = asked.parse_args()
    limited, spare = Vendor(delay=0.02), Vendor(delay=0.02)
    text = configuration({"limited": limited.url, "spare": spare.url}, {"m": ["limited", "spare"]}, strategy="weighted")
    with servers() as variables, gateway(text, variables=variables) as house:
        port = free_port()
        line = [sys.executable, "manage.py", "serve", "--port", str(port)]
        with process(line, port, house.variables):
            missed = asyncio.run(drill(house, port, limited, spare, options.wait, options.rounds))
    verdict(missed)


if __name__ == "__main__":
    main()
