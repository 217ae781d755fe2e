"""CPU per call and per streamed chunk, as ratios to a bare relay measured in the same run.

python -m bench.cost                          embedded (SQLite, in-process store)
python -m bench.cost --servers                PostgreSQL and Valkey as well
python -m bench.cost --kinds gemini,openai    only these kinds
python -m bench.cost --seconds 10             longer rounds
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import Callable

from bench.load import Result, load, request
from bench.processes import cpu, free_port, gateway, process
from bench.upstream import CHUNKS

PROMPT = "Please tell me in one short sentence what a gatehouse is for"
ASK = json.dumps({"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]}).encode()
CHAT = {"model": "bench", "messages": [{"role": "user", "content": PROMPT}]}
ROUNDS = 3

# kind -> (credential, base path, options) of its connection, and what the relay sends for comparison
KINDS: dict[str, tuple[str, str, str]] = {
    "gemini": ("{api_key: k}", "", "{}"),
    "openai": ("{api_key: k}", "/v1", "{}"),
    "openai_responses": ("{api_key: k}", "/v1", "{}"),
    "azure_openai": ("{api_key: k}", "", "{api_version: v1}"),
    "gemini_openai": ("{api_key: k}", "/v1beta/openai", "{}"),
    "anthropic": ("{api_key: k}", "", "{}"),
    "vertex": ("{access_token: k}", "", "{project: p, location: global}"),
    "bedrock": ("{bearer_token: k}", "", "{region: us-east-1, api: converse}"),
}


def configuration(port: int, kinds: list[str]) -> str:
    lines = ["organizations:", "  - {slug: bench, name: Bench}", "connections:"]
    for kind in kinds:
        credential, base, options = KINDS[kind]
        lines.append(
            f"  - {{name: {kind}, kind: {kind}, base_url: 'http://127.0.0.1:{port}{base}', credential: {credential}, "
            f"options: {options}, allow_private: true}}"
        )
    lines.append("models:")
    lines += [f"  - {{name: {kind}, deployments: [{{connection: {kind}, upstream_model: bench}}]}}" for kind in kinds]
    lines += ["keys:", "  - {organization: bench, name: bench}"]
    return "\n".join(lines)


def measured(pid: int, port: int, wire: bytes, in_flight: int, seconds: float) -> tuple[float, Result]:
    """CPU seconds of the process tree over one load, and the load."""
    before = cpu(pid)
    result = asyncio.run(load(port, wire, in_flight=in_flight, seconds=seconds))
    return cpu(pid) - before, result


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--kinds", default="gemini,openai")
    options.add_argument("--seconds", type=float, default=4.0)
    options.add_argument("--servers", action="store_true")
    chosen = options.parse_args()
    kinds = list(KINDS) if chosen.kinds == "all" else chosen.kinds.split(",")
    with contextlib.ExitStack() as stack:
        upstream, relay = free_port(), free_port()
        stack.enter_context(process([sys.executable, "-m", "bench.upstream", str(upstream)], upstream))
        variables = {"UPSTREAM": f"http://127.0.0.1:{upstream}"}
        bare = stack.enter_context(process([sys.executable, "-m", "bench.relay", str(relay)], relay, variables))
        servers = {}
        if chosen.servers:
            from tests import servers as real

            started = real.Servers()
            stack.callback(started.stop)
            servers = dict(zip(("DATABASE_URL", "REDIS_URL"), started.start(), strict=True))
        house = stack.enter_context(gateway(configuration(upstream, kinds), variables=servers))
        headers = {"x-goog-api-key": house.keys["bench"]}
        print(f"{'':28}{'relay':>12}{'gateway':>12}{'ratio':>8}")
        for kind in kinds:
            compare(
                f"{kind} unary (ms/call)", bare.pid, relay, house.pid, house.port,
                request("/v1beta/models/x:generateContent", ASK, {}),
                request(f"/v1beta/models/{kind}:generateContent", ASK, headers), 16, chosen.seconds, lambda r: r.calls,
            )  # fmt: skip
        chat = json.dumps({**CHAT, "stream": True}, separators=(",", ":")).encode()
        for kind in kinds:
            compare(
                f"{kind} stream (ms/chunk)", bare.pid, relay, house.pid, house.port,
                request("/v1/chat/completions", chat, {}),
                request(f"/v1beta/models/{kind}:streamGenerateContent?alt=sse", ASK, headers), 32, chosen.seconds,
                lambda r: r.calls * CHUNKS,
            )  # fmt: skip


def compare(
    name: str, relay_pid: int, relay_port: int, pid: int, port: int, relay_wire: bytes, wire: bytes, in_flight: int, seconds: float,
    units: Callable[[Result], int],
) -> None:  # fmt: skip
    """Alternate between the two, so that what the machine does meanwhile hits both; medians of the rounds."""
    measured(relay_pid, relay_port, relay_wire, in_flight, 1)
    measured(pid, port, wire, in_flight, 1)
    theirs, ours = [], []
    for _ in range(ROUNDS):
        used, result = measured(relay_pid, relay_port, relay_wire, in_flight, seconds)
        theirs.append(used / units(result) * 1000)
        used, result = measured(pid, port, wire, in_flight, seconds)
        if result.errors:
            raise SystemExit(f"{name}: {result.errors} of {result.calls} calls failed: {result.statuses}")
        ours.append(used / units(result) * 1000)
    bare, house = statistics.median(theirs), statistics.median(ours)
    print(f"{name:28}{bare:12.4f}{house:12.4f}{house / bare:8.2f}", flush=True)


if __name__ == "__main__":
    main()
