"""CPU per call of a model with twenty deployments beside one with a single deployment, in the same run. To meet: at most 1.2.

python -m bench.drills.twenty_deployments [--seconds 4] [--servers]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from contextlib import ExitStack

from bench.drills.scene import configuration, servers, unary, verdict
from bench.load import load
from bench.processes import cpu, free_port, gateway, process

ROUNDS = 5
IN_FLIGHT = 16


def milliseconds(pid: int, port: int, wire: bytes, seconds: float) -> float:
    before = cpu(pid)
    result = asyncio.run(load(port, wire, in_flight=IN_FLIGHT, seconds=seconds))
    if result.errors:
        raise SystemExit(f"{result.errors} of {result.calls} calls failed: {result.statuses}")
    return (cpu(pid) - before) / result.calls * 1000


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=4.0)
    asked.add_argument("--servers", action="store_true", help="with PostgreSQL and Valkey")
    options = asked.parse_args()
    names = [f"c{number}" for number in range(20)]
    with ExitStack() as stack:
        upstream = free_port()
        stack.enter_context(process([sys.executable, "-m", "bench.upstream", str(upstream)], upstream))
        variables = stack.enter_context(servers()) if options.servers else {}
        places = dict.fromkeys(names, f"http://127.0.0.1:{upstream}")
        text = configuration(places, {"one": names[:1], "twenty": names})
        house = stack.enter_context(gateway(text, variables=variables))
        wires = {name: unary(name, house.keys["drill"]) for name in ("one", "twenty")}
        found: dict[str, list[float]] = {name: [] for name in wires}
        for number in range(ROUNDS + 1):  # the first one warms up
            for name, wire in wires.items():
                figure = milliseconds(house.pid, house.port, wire, options.seconds if number else 1)
                if number:
                    found[name].append(figure)
    one, twenty = (statistics.median(found[name]) for name in wires)
    print(f"one: {one:.3f} ms CPU a call, twenty: {twenty:.3f} ms; ratio {twenty / one:.2f} (at most 1.2)")
    verdict([f"{twenty / one:.2f} times the CPU of one"] if twenty > 1.2 * one else [])


if __name__ == "__main__":
    main()
