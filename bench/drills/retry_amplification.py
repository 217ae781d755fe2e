"""Every upstream answers 503: how many calls they get for each call of a client. To meet: at most 1.1.

python -m bench.drills.retry_amplification [--seconds 60] [--rate 150]
"""

from __future__ import annotations

import argparse
import asyncio

from bench.drills.scene import Vendor, configuration, in_words, unary
from bench.load import Client, offer
from bench.processes import Gateway, gateway


async def drill(house: Gateway, vendor: Vendor, options: argparse.Namespace) -> None:
    async with vendor.open():
        client = Client(house.port)
        answers = await offer(client, [unary("m", house.keys["drill"])], rate=options.rate, seconds=options.seconds)
        client.close()
    print(f"answers: {in_words(answers)}")
    print(
        f"{len(vendor.calls)} upstream calls for {len(answers)} calls: {len(vendor.calls) / len(answers):.3f} (at most 1.1)"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--rate", type=float, default=150.0, help="calls a second")
    vendor = Vendor(delay=0.02)
    vendor.status = 503
    with gateway(configuration(dict.fromkeys("abc", vendor.url), {"m": "abc"})) as house:
        asyncio.run(drill(house, vendor, asked.parse_args()))


if __name__ == "__main__":
    main()
