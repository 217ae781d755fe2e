"""Another Gatehouse process, as far as limits go: `python -m tests.keys.limiting_process URL`.

Reads lines from standard input, each a JSON object, and answers each with one:
    {"do": "offer", "organization", "rules", "calls"}   how many of that many calls at once passed
    {"do": "hold", "organization", "rules", "reached"}  takes one hold and keeps it
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from keys.context import LimitRule
from keys.limits.base import LimitReached, Used
from keys.limits.redis import RedisLimiter
from lib import store as stores
from tests.keys.limiting import ask, key_with


async def main(url: str) -> None:
    stores.TIMEOUT = 10.0  # what is tested is not how fast this machine is
    store = stores.Store()
    await store.open(url)
    limiter = RedisLimiter(store, beat=0.1)
    await limiter.open()

    async def offer(key: Any, each: int) -> bool:
        await asyncio.sleep(each * 0.002)
        try:
            hold = await limiter.admit(key, key.limits, ask(tokens=10, spend=1000), time.time())
        except LimitReached:
            return False
        limiter.reached(hold)
        limiter.settle(hold, Used(5, 500))
        return True

    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        order = json.loads(line)
        key = key_with(*(LimitRule(**given) for given in order["rules"]), organization=order["organization"])
        if order["do"] == "offer":
            passed = await asyncio.gather(*(offer(key, each) for each in range(order["calls"])))
            print(sum(passed), flush=True)
        else:
            hold = await limiter.admit(key, key.limits, ask(tokens=10, spend=1000), time.time())
            if order["reached"]:
                limiter.reached(hold)
                await asyncio.sleep(0.5)  # until it has been told
            print("held", flush=True)
    await limiter.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
