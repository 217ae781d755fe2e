"""What a limiter costs a call: CPU of admit and settle with six limits, 64 calls at once. `python bench/limits.py [REDIS_URL]`

Without a URL: in memory. CPU is this process's own, not Redis's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from keys.limits import rules_for
from keys.limits.base import Ask, Used
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from lib.ids import uuid7
from lib.store import Store
from tests.keys.limiting import key_with, rule

CALLS, AT_ONCE = 20_000, 64
MANY = 10**12
RULES = (
    rule("requests", "minute", MANY), rule("tokens", "minute", MANY), rule("concurrent", "minute", MANY),
    rule("spend", "day", MANY), rule("spend", "month", MANY), rule("requests", "month", MANY),
)  # fmt: skip


async def main(url: str) -> None:
    store = Store()
    await store.open(url)
    limiter = RedisLimiter(store) if url else MemoryLimiter()
    await limiter.open()
    key = key_with(*RULES)
    left, degraded = CALLS, 0

    async def caller(limited: bool) -> None:
        nonlocal left, degraded
        while left > 0:
            left -= 1
            call_id = str(uuid7())
            if limited:
                rules = rules_for(key, "gemini-2.5-flash")
                hold = await limiter.admit(key, rules, Ask(call_id, "gemini-2.5-flash", 1_000, 5_000), time.time())
                limiter.reached(hold)
                degraded += hold.degraded
            await asyncio.sleep(0.001)  # the upstream
            if limited:
                limiter.settle(hold, Used(500, 2_500))

    costs: dict[bool, float] = {}
    for limited in (False, True, False, True):
        left = CALLS
        began = time.process_time()
        await asyncio.gather(*(caller(limited) for _ in range(AT_ONCE)))
        spent = (time.process_time() - began) / CALLS * 1e6
        costs[limited] = min(spent, costs.get(limited, spent))
    print(
        f"{'Redis' if url else 'memory'}: {costs[True] - costs[False]:.0f} us of CPU a call with six limits"
        f" ({degraded} of {2 * CALLS} went without Redis)"
    )
    await limiter.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else ""))
