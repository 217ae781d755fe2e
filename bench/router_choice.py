"""CPU of one choice: a whole attempt (choose, lend, note, give back) with 1, 5 and 20 deployments, per strategy.

python -m bench.router_choice
"""

from __future__ import annotations

import time

from routing.router import Hints, Router
from routing.scores_memory import Board
from tests.routing.simulation import STRATEGIES, deployment, public_model

COUNTS = (1, 5, 20)
CALLS = 4000


def microseconds(strategy: str, count: int, **given: object) -> float:
    """CPU microseconds of one call through the router, the best of five rounds."""
    model = public_model(*(deployment(f"d{number}", **given) for number in range(count)), strategy=strategy)
    router = Router(Board())
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(CALLS):
            for attempt in router.attempts(model, Hints(stream=True, prompt_tokens=500)):
                with attempt:
                    attempt.commit()
                    attempt.answered(tokens=700)
                    break
        best = min(best, (time.process_time() - began) / CALLS * 1e6)
    return best


if __name__ == "__main__":
    print("| strategy | " + " | ".join(f"{count} deployments" for count in COUNTS) + " |")
    print("|---" * (len(COUNTS) + 1) + "|")
    for strategy in STRATEGIES:
        print(f"| {strategy} | " + " | ".join(f"{microseconds(strategy, count):.1f} µs" for count in COUNTS) + " |")
    limited = [microseconds("latency", count, requests_per_minute=10**9, max_parallel=10**6) for count in COUNTS]
    print("| latency, with limits | " + " | ".join(f"{figure:.1f} µs" for figure in limited) + " |")
