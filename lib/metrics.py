"""What machines may watch, in Prometheus' words. The only file that imports prometheus_client.

Calls are counted where they are recorded, in batches beside the calls and never on their path. With several workers every
process writes its own files and `text` adds them up (PROMETHEUS_MULTIPROC_DIR, set by proxy_site/server.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest, multiprocess

CALLS = Counter("gatehouse_calls", "Calls recorded", ["action", "model", "backend", "status"])
TOKENS = Counter("gatehouse_tokens", "Tokens recorded", ["model", "backend", "kind"])
SPEND = Counter("gatehouse_spend_nano_dollars", "Spend recorded, in nano-dollars", ["model", "backend"])
DURATION = Counter("gatehouse_call_milliseconds", "Sum of the calls' durations", ["action", "model", "backend"])
FIRST_TOKEN = Counter("gatehouse_first_token_milliseconds", "Sum of times to first token", ["model", "backend"])
STREAMS = Counter("gatehouse_first_tokens", "Streams that had a first token", ["model", "backend"])
REFUSED = Counter("gatehouse_unknown_callers", "Calls without a usable key", ["problem"])
BODIES_LOST = Counter("gatehouse_bodies_lost", "Requests with answers that were to be kept and were not", ["reason"])
IN_FLIGHT = Gauge("gatehouse_calls_in_flight", "Calls running now", multiprocess_mode="livesum")
TASKS = Gauge(
    "gatehouse_tasks", "Tasks of the event loop, calls and their waiting included", multiprocess_mode="livesum"
)
WAITING = Gauge("gatehouse_spool_bytes", "Bytes of usage not yet in the database", multiprocess_mode="livesum")
STORE_UP = Gauge("gatehouse_store_up", "Whether Redis answers (1 also when none is used)", multiprocess_mode="livemin")
LEDGER_UP = Gauge("gatehouse_ledger_up", "Whether the database takes records", multiprocess_mode="livemin")


def measure(
    in_flight: Callable[[], float],
    waiting: Callable[[], float],
    store: Callable[[], float],
    ledger: Callable[[], float],
) -> None:
    """Where the gauges look when they are asked, or when `look` is called."""
    _looks[:] = [(IN_FLIGHT, in_flight), (WAITING, waiting), (STORE_UP, store), (LEDGER_UP, ledger)]


_looks: list[tuple[Gauge, Callable[[], float]]] = []


def look() -> None:
    for gauge, value in _looks:
        gauge.set(value())


def forget_dead(directory: str) -> None:
    """What a worker that died said of its present is no longer so. (What it counted stays.)"""
    for path in Path(directory).glob("gauge_live*_*.db"):
        try:
            os.kill(int(path.stem.rpartition("_")[2]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            continue  # somebody else's process has the number: alive, as far as we can tell


def text(directory: str) -> tuple[bytes, str]:
    """All metrics, and their content type. `directory`: where several workers write; "" for one."""
    look()
    if not directory:
        return generate_latest(), CONTENT_TYPE_LATEST
    forget_dead(directory)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]  # its stubs have none
    return generate_latest(registry), CONTENT_TYPE_LATEST
