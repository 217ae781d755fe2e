"""Metrics of several workers: those of a worker that died."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lib import metrics

WORKER = """
from lib import metrics
metrics.IN_FLIGHT.set(3)
metrics.REFUSED.labels("unknown").inc(2)
print("said", flush=True)
input()
"""


def test_a_dead_workers_present_is_forgotten_and_its_counts_stay(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        alive = metrics.text(str(tmp_path))[0].decode()
        worker.communicate("\n")
    dead = metrics.text(str(tmp_path))[0].decode()
    assert "gatehouse_calls_in_flight 3.0" in alive
    assert "gatehouse_calls_in_flight" not in dead
    assert 'gatehouse_unknown_callers_total{problem="unknown"} 2.0' in dead
