"""What limits cost a call, in CPU: the limiter alone, and the whole gateway with six limits beside none. Redis's own CPU apart.

python -m bench.limits                 the limiter, in memory and over Valkey, 64 calls at once
python -m bench.limits --gateway       the gateway over Valkey, 64 calls at once: a key with six limits, one without
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time

from bench.cost import ASK, configuration, measured
from bench.load import request
from bench.processes import free_port, gateway, process
from keys.limits import rules_for
from keys.limits.base import Ask, Used
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from lib.ids import uuid7
from lib.store import Store
from tests.keys.limiting import key_with, rule
from tests.servers import Servers

CALLS, AT_ONCE, ROUNDS = 10_000, 64, 3
PAUSE = 0.02  # seconds of the upstream: some 3,000 calls a second
MANY = 10**12
SIX = (
    ("requests", "minute", "*"), ("tokens", "minute", "*"), ("concurrent", "minute", "*"),
    ("spend", "day", "*"), ("spend", "month", "gem*"), ("requests", "month", "*"),
)  # fmt: skip
MODEL = "gemini"


async def limiter_alone(url: str) -> None:
    store = Store()
    await store.open(url)
    limiter = RedisLimiter(store) if url else MemoryLimiter()
    await limiter.open()
    key = key_with(*(rule(metric, period, MANY, pattern=pattern) for metric, period, pattern in SIX))
    left, degraded = 0, 0

    async def caller(limited: bool) -> None:
        nonlocal left, degraded
        while left > 0:
            left -= 1
            call_id = str(uuid7())
            if limited:
                rules = rules_for(key, MODEL)
                hold = await limiter.admit(key, rules, Ask(call_id, MODEL, 1_000, 5_000), time.time())
                limiter.reached(hold)
                degraded += hold.degraded
            await asyncio.sleep(PAUSE)
            if limited:
                limiter.settle(hold, Used(500, 2_500))

    costs: dict[bool, list[float]] = {False: [], True: []}
    for limited in (False, True) * ROUNDS:
        left = CALLS
        began = time.process_time()
        await asyncio.gather(*(caller(limited) for _ in range(AT_ONCE)))
        costs[limited].append((time.process_time() - began) / CALLS * 1e6)
    cost = statistics.median(costs[True]) - statistics.median(costs[False])
    place = "over Valkey" if url else "in memory"
    print(f"{place}: {cost:.0f} us a call for six limits ({degraded} of {ROUNDS * CALLS} went without it)", flush=True)
    await limiter.close()
    await store.close()


def whole_gateway(stack: contextlib.ExitStack, servers: dict[str, str], seconds: float) -> None:
    upstream = free_port()
    stack.enter_context(process([sys.executable, "-m", "bench.upstream", str(upstream)], upstream))
    limits = ", ".join(
        f"{{metric: {metric}, period: {period}, amount: {9_000_000 if metric == 'spend' else 9_000_000_000}, models: '{pattern}'}}"
        for metric, period, pattern in SIX
    )
    text = configuration(upstream, [MODEL]).replace("upstream_model: bench", "upstream_model: gemini-2.5-flash")
    house = stack.enter_context(
        gateway(f"{text}\n  - {{organization: bench, name: six, limits: [{limits}]}}", variables=servers)
    )
    path = f"/v1beta/models/{MODEL}:generateContent"
    costs: dict[str, list[float]] = {"bench": [], "six": []}
    for name in ("bench", "six") * (ROUNDS + 1):
        wire = request(path, ASK, {"x-goog-api-key": house.keys[name]})
        used, result = measured(house.pid, house.port, wire, AT_ONCE, seconds)
        if result.errors:
            raise SystemExit(f"{name}: {result.errors} of {result.calls} calls failed: {result.statuses}")
        costs[name].append(used / result.calls * 1e6)
    none, six = (statistics.median(costs[name][1:]) for name in ("bench", "six"))
    print(f"gateway: {none:.0f} us a call without limits, {six:.0f} us with six: {six / none:.2f} times", flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--gateway", action="store_true")
    options.add_argument("--seconds", type=float, default=4.0)
    chosen = options.parse_args()
    with contextlib.ExitStack() as stack:
        started = Servers()
        stack.callback(started.stop)
        servers = dict(zip(("DATABASE_URL", "REDIS_URL"), started.start(postgres=chosen.gateway), strict=True))
        if chosen.gateway:
            whole_gateway(stack, servers, chosen.seconds)
        else:
            asyncio.run(limiter_alone(""))
            asyncio.run(limiter_alone(servers["REDIS_URL"]))


if __name__ == "__main__":
    main()
