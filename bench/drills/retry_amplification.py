"""Every upstream answers 503: how many calls they get for each call of a client. To meet: at most 1.1.

python -m bench.drills.retry_amplification [--seconds 60] [--rate 150]
"""

from __future__ import annotations

import argparse
import asyncio

from bench.drills.scene import Vendor, configuration, in_words, unary, verdict
from bench.load import Client, offer
from bench.processes import Gateway, gateway


async def drill(house: Gateway, vendor: Vendor, options: argparse.Namespace) -> list[str]:
    async with vendor.open():
        client = Client(house.port)
        answers = await offer(client, [unary("m", house.keys["drill"])], rate=options.rate, seconds=options.seconds)
        client.close()
    print(f"answers: {in_words(answers)}")
    said = f"{len(vendor.calls)} upstream calls for {len(answers)} calls: {len(vendor.calls) / len(answers):.3f}"
    print(f"{said} (at most 1.1)")
    strange = [each for each in answers if each.status != 503]
    return [
        *([said] if len(vendor.calls) > 1.1 * len(answers) else []),
        *([f"{len(strange)} answers are not 503"] if strange else []),
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--rate", type=float, default=150.0, help="calls a second")
    vendor = Vendor(delay=0.02)
    vendor.status = 503
    with gateway(configuration(dict.fromkeys("abc", vendor.url), {"m": "abc"})) as house:
        missed = asyncio.run(drill(house, vendor, asked.parse_args()))
    verdict(missed)


if __name__ == "__main__":
    main()
