"""A budget of a dollar, 400 clients at once over two processes, unary and streamed, a third of whom leave in the middle.
To meet: nothing overspent, nothing held at last, counter and ledger equal to the nano-dollar, an answer that came to its
end charged as the vendor billed it, one that was left at least for what was heard of it, and flagged.

python -m bench.drills.budget [--budget 1.00] [--clients 400] [--tries 6] [--processes 2] [--seed 1]

PostgreSQL and Valkey out of the development wheels. The budget is the organization's, and KEYS keys use it up together.
Who is refused asks again, so that the end of the budget is met often.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import cycle
from typing import Any

from bench.drills.scene import Vendor, configuration, counters, processes, records, servers, until, verdict
from bench.load import request
from bench.processes import Gateway

PROMPT, PIECE, MOST = 50, 10, 20  # tokens of every prompt, tokens of a piece, pieces of an answer
TEXT = "x" * 4 * PIECE
PRICE = {"input": "1", "output": "40"}  # USD per million tokens
NANO_PROMPT, NANO_PIECE = PROMPT * 1_000, PIECE * 40_000
KEYS = [f"drill-{number}" for number in range(8)]  # the ledger keeps a thousand labels of a key and day
LABEL = re.compile(rb"call-\d+-\d+")


class Biller(Vendor):
    """Answers in a number of pieces that the label decides, and remembers what it billed for: label -> pieces.

    Of every second call it tells its count with each piece, of the others with the last one alone.
    """

    def __init__(self) -> None:
        super().__init__(delay=0.05)
        self.billed: dict[str, int] = {}
        self.complete: set[str] = set()

    async def _answer(self, transport: Any, stream: bool, body: bytes) -> None:
        found = LABEL.search(body)
        assert found is not None, body
        label = found[0].decode()
        chance = random.Random(label)
        pieces, talkative = chance.randint(MOST // 2, MOST), chance.random() < 0.5
        await asyncio.sleep(self.delay)
        if not stream:
            whole = json.dumps(said(TEXT * pieces, pieces, last=True)).encode()
            self.billed[label] = pieces
            self.complete.add(label)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(whole)
            transport.write(head + whole)
            return
        transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(1, pieces + 1):
            if transport.is_closing():
                return
            event = b"data: " + json.dumps(said(TEXT, number, last=number == pieces, told=talkative)).encode() + b"\n\n"
            self.billed[label] = number
            transport.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await asyncio.sleep(0.01)
        self.complete.add(label)
        transport.write(b"0\r\n\r\n")


def said(text: str, pieces: int, *, last: bool, told: bool = True) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if last:
        candidate["finishReason"] = "STOP"
    output = pieces * PIECE
    usage = {"promptTokenCount": PROMPT, "candidatesTokenCount": output, "totalTokenCount": PROMPT + output}
    return {"candidates": [candidate], **({"usageMetadata": usage} if last or told else {})}


@dataclass
class Seen:
    """What the clients saw, by label. heard: pieces; ends: `whole`, `left`, or a status."""

    heard: dict[str, int] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)

    def count(self, end: str) -> int:
        return sum(each == end for each in self.ends.values())


async def client(port: int, key: str, name: str, chance: random.Random, tries: int, seen: Seen) -> None:
    """One call, again after a refusal. A third leave: after a random time, or when a stream has said so much."""
    for number in range(tries):
        label, stream, leaves = f"{name}-{number}", chance.random() < 0.5, chance.random() < 1 / 3
        enough = chance.randint(0, MOST // 2) if leaves and stream else MOST + 1
        patience = chance.uniform(0.0, 1.0) if leaves and not stream else 60.0
        await call(port, wire(key, label, stream=stream), label, patience, enough, seen)
        if seen.ends[label] != "429":
            return
        await asyncio.sleep(chance.uniform(0.1, 0.5))


def wire(key: str, label: str, *, stream: bool) -> bytes:
    action = "streamGenerateContent?alt=sse" if stream else "generateContent"
    contents = [{"role": "user", "parts": [{"text": f"Tell me of gatehouses. {label}"}]}]
    body = {"contents": contents, "generationConfig": {"maxOutputTokens": MOST * PIECE}}
    headers = {"x-goog-api-key": key, "x-gatehouse-user": label}
    return request(f"/v1beta/models/m:{action}", json.dumps(body).encode(), headers)


async def call(port: int, sent: bytes, label: str, patience: float, enough: int, seen: Seen) -> None:
    """One call, until its answer is whole, `patience` seconds are over or `enough` pieces were heard."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    heard, seen.ends[label] = b"", "left"
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                writer.write(sent)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                status = head.split(b" ", 2)[1].decode()
                while (status != "200" or heard.count(TEXT.encode()) < enough) and (piece := await reader.read(2**16)):
                    heard += piece
                    if b"content-length" not in head and heard.endswith(b"\r\n0\r\n\r\n"):
                        break
                    if b"content-length: %d\r" % len(heard) in head:
                        break
                else:
                    return
                seen.ends[label] = "whole" if status == "200" else status
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.ends[label] = type(error).__name__
    finally:
        seen.heard[label] = heard.count(TEXT.encode())
        writer.transport.abort()


async def drill(house: Gateway, ports: list[int], vendor: Biller, options: argparse.Namespace) -> tuple[Seen, bool]:
    """What was seen, and whether counter and ledger came to rest."""
    chance, seen = random.Random(options.seed), Seen()
    async with vendor.open():
        await asyncio.gather(
            *(
                client(port, house.keys[key], f"call-{number}", chance, options.tries, seen)
                for number, port, key in zip(range(options.clients), cycle(ports), cycle(KEYS), strict=False)
            )
        )

        def at_rest() -> bool:
            (found,) = counters(house, lag=1)
            return not found["held"] and not found["drift"] and found["used"] == found["ledger"]

        return seen, await until(at_rest, 30, every=0.5)


def missed(house: Gateway, vendor: Biller, seen: Seen, budget: int) -> list[str]:
    """What is wrong, in sentences."""
    (counter,) = counters(house, lag=1)
    found = records(house, "label", "status", "cost_nano", "flags", "deployment_id")
    charged = {label: (status, cost, flags) for label, status, cost, flags, at in found if at}
    total = sum(cost for _, cost, _ in charged.values())
    kinds: dict[str, int] = {}
    for status, _, _ in charged.values():
        kinds[status] = kinds.get(status, 0) + 1
    print(f"clients: {len(seen.ends)} calls, {seen.count('whole')} whole, {seen.count('left')} left, "
          f"{seen.count('429')} refused")  # fmt: skip
    print(f"vendor: {len(vendor.billed)} calls billed, {len(vendor.complete)} to their end; records: {kinds}")
    print(f"budget {budget}, counter {counter['used']}, held {counter['held']}, ledger {total} nano-dollars")
    wrong = {
        f"used {counter['used']} and held {counter['held']} of {budget}": not counter["used"] <= budget,
        f"{counter['held']} are still held": counter["held"] != 0,
        f"the counter says {counter['used']}, the records {total}": counter["used"] != total,
        "the budget was never reached": not seen.count("429") or counter["used"] < budget * 0.9,
        f"strange ends: {set(seen.ends.values()) - {'whole', 'left', '429'}}": bool(
            set(seen.ends.values()) - {"whole", "left", "429"}
        ),
        f"{len(found) - len({row[0] for row in found})} calls have several records": len(found)
        != len({row[0] for row in found}),
    }
    faults = [sentence for sentence, holds in wrong.items() if holds]
    if lost := (vendor.billed.keys() | {label for label, end in seen.ends.items() if end == "whole"}) - charged.keys():
        faults.append(f"{len(lost)} calls that reached the vendor have no record: {sorted(lost)[:3]}")
    for label, (status, cost, flags) in charged.items():
        exact = NANO_PROMPT + NANO_PIECE * vendor.billed.get(label, 0)
        least = NANO_PIECE * seen.heard.get(label, 0)  # and a prompt that was counted here
        if status == "OK" and cost != exact:
            faults.append(f"{label}: charged {cost}, billed {exact}")
        if status != "OK" and seen.heard.get(label, 0) and (cost < least or "cancelled" not in flags):
            faults.append(f"{label}, {status}: charged {cost} of {least} heard, flags {flags}")
    return faults


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--budget", type=Decimal, default=Decimal("1.00"), help="USD")
    asked.add_argument("--clients", type=int, default=400)
    asked.add_argument("--tries", type=int, default=6)
    asked.add_argument("--processes", type=int, default=2)
    asked.add_argument("--seed", type=int, default=1)
    options = asked.parse_args()
    vendor = Biller()
    budget = {"metric": "spend", "period": "month", "amount": str(options.budget)}
    keys: dict[str, dict[str, object]] = {key: {} for key in KEYS}
    text = configuration({"vendor": vendor.url}, {"m": ["vendor"]}, keys=keys, limits=[budget], price=PRICE)
    with servers() as variables, processes(text, options.processes, variables) as (house, ports):
        seen, rested = asyncio.run(drill(house, ports, vendor, options))
        faults = missed(house, vendor, seen, int(options.budget * 10**9))
    verdict([*faults, *([] if rested else ["counter and ledger did not come to rest within 30 s"])])


if __name__ == "__main__":
    main()
