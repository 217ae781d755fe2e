"""Five hundred clients that send their head or their body byte by byte, or never read: they are let go, and others do not
notice.

python -m bench.drills.slow_clients [--clients 500] [--patience 3]

patience: seconds that the gateway waits for a head, for a body, and for a reader. A second's grace comes on top: it looks
twice a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine
from functools import lru_cache
from pathlib import Path

from bench.drills.scene import ASK, Vendor, configuration, in_words, percentile, unary, until, verdict
from bench.load import Client, Told, offer, request
from bench.processes import Gateway, gateway, memory

RATE = 20.0  # normal calls a second
BIG = 2 * 2**20  # bytes of an answer that no socket buffer holds


async def slow_head(port: int, key: str) -> None:
    """A byte of the head now and then."""
    await drip(port, b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nhost: x\r\nx-slow: " + b"a" * 10_000)


async def slow_body(port: int, key: str) -> None:
    """A proper head, and a byte of the body now and then."""
    wire = request("/v1beta/models/m:generateContent", ASK + b" " * 10_000, {"x-goog-api-key": key})
    await drip(port, wire, wire.index(b"\r\n\r\n") + 4)


async def drip(port: int, wire: bytes, at_once: int = 20) -> None:
    """Until the other side has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ended = asyncio.ensure_future(reader.read())
    writer.write(wire[:at_once])
    try:
        for byte in wire[at_once:]:
            await asyncio.wait([ended], timeout=0.5)
            if ended.done():
                break
            writer.write(bytes([byte]))
        await asyncio.gather(ended, return_exceptions=True)
    finally:
        ended.cancel()
        writer.transport.abort()


async def slow_reader(port: int, key: str) -> None:
    """Asks for a large answer and reads none of it; it does not even hear that it is let go."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await loop.sock_sendall(client, unary("big", key))
        own = client.getsockname()[1]
        await until(lambda: own not in connected(port, int(time.monotonic() * 2)), 600, every=0.5)


@lru_cache(maxsize=1)
def connected(port: int, tick: int) -> frozenset[int]:
    """The ports of the clients that this port's server is still connected to; read twice a second."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, *_ = line.split()
        if state == ESTABLISHED and int(here.rpartition(":")[2], 16) == port:
            found.add(int(there.rpartition(":")[2], 16))
    return frozenset(found)


ESTABLISHED = "01"
Slow = Callable[[int, str], Coroutine[None, None, None]]
# How they behave, and how many come in a second: a large answer costs us some ten milliseconds, and the drill too.
KINDS: dict[str, tuple[Slow, float]] = {
    "slow heads": (slow_head, 100.0),
    "slow bodies": (slow_body, 100.0),
    "slow readers": (slow_reader, 15.0),
}


async def timed(slow: Slow, port: int, key: str, after: float, most: float) -> float:
    """Seconds until it was let go; infinity when that did not happen in time."""
    await asyncio.sleep(after)
    began = time.monotonic()
    try:
        async with asyncio.timeout(most):
            await slow(port, key)
    except TimeoutError:
        return float("inf")
    except OSError:
        pass
    return time.monotonic() - began


def line(name: str, answers: list[Told], more: str = "") -> None:
    times = [each.seconds * 1000 for each in answers]
    print(
        f"{name:14} normal calls p50 {percentile(times, 0.5):6.1f} ms, p99 {percentile(times, 0.99):6.1f} ms ({in_words(answers)}){more}",
        flush=True,
    )


async def drill(house: Gateway, vendor: Vendor, big: Vendor, options: argparse.Namespace) -> list[str]:
    missed: list[str] = []
    key = house.keys["drill"]
    client, wire, most = Client(house.port), unary("m", key), 10 * options.patience + 20
    async with vendor.open(), big.open():
        await offer(client, [wire], rate=RATE, seconds=2)
        line("alone", await offer(client, [wire], rate=RATE, seconds=options.patience + 2))
        for name, (slow, arrivals) in KINDS.items():
            before = memory(house.pid)
            clients = [
                asyncio.ensure_future(timed(slow, house.port, key, number / arrivals, most))
                for number in range(options.clients)
            ]
            seconds = options.clients / arrivals + options.patience
            answers = await offer(client, [wire], rate=RATE, seconds=seconds)
            high = memory(house.pid)
            waits = await asyncio.gather(*clients)
            gone = [wait for wait in waits if wait < most]
            if len(gone) < len(waits):
                missed.append(f"{name}: {len(waits) - len(gone)} were not let go")
            if bad := [each for each in answers if each.status != 200]:
                missed.append(f"{name}: {len(bad)} normal calls failed: {in_words(bad)}")
            line(
                name, answers,
                f"; {len(gone)} of {len(waits)} let go, the last after {max(waits):.1f} s; memory {(high - before) / 2**20:+.0f} MB",
            )  # fmt: skip
        line("afterwards", await offer(client, [wire], rate=RATE, seconds=options.patience + 2))
    client.close()
    return missed


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--clients", type=int, default=500)
    asked.add_argument("--patience", type=float, default=3.0)
    options = asked.parse_args()
    vendor, big = Vendor(delay=0.02), Vendor(delay=0.02)
    answer = json.loads(big.answer)
    answer["candidates"][0]["content"]["parts"][0]["text"] = "x" * BIG
    big.answer = json.dumps(answer).encode()
    patience = str(options.patience)
    variables = {f"GATEHOUSE_{what}_TIMEOUT": patience for what in ("HEADER", "BODY", "WRITE")}
    text = configuration({"normal": vendor.url, "big": big.url}, {"m": ["normal"], "big": ["big"]})
    with gateway(text, variables=variables) as house:
        missed = asyncio.run(drill(house, vendor, big, options))
    verdict(missed)


if __name__ == "__main__":
    main()
