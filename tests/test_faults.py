"""The fault proxy does to a connection what each fault says, and nothing once it is healthy again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.faults import FAULTS, HEALTHY, Fault, FaultProxy, fault_proxies

ANSWER = b"".join(b"%05d " % number for number in range(100))  # 600 bytes
SILENCE = 0.3  # seconds without a word that count as silence


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """In front of a server that says ANSWER to whatever it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    made = FaultProxy(server.sockets[0].getsockname()[1])
    await made.open()
    yield made
    await made.close()
    server.close()
    await server.wait_closed()


class Client:
    """Asks, on a connection of its own or on one that is kept, and says how that went."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> str | bytes:
        try:
            async with asyncio.timeout(SILENCE):
                self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.proxy.port)
        except TimeoutError:
            return "no connection"
        except ConnectionRefusedError:
            return "refused"
        reader, writer = self.streams
        got = b""
        try:
            writer.write(b"?")
            async with asyncio.timeout(SILENCE):
                while len(got) < len(ANSWER) and (data := await reader.read(1000)):
                    got += data
        except TimeoutError:
            return got or "silence"
        except ConnectionResetError:
            return "reset"
        return got or "end"

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()


HAPPENS: dict[str, str | bytes] = {
    "reset": "reset",
    "black hole": "silence",
    "refuse": "refused",
    "full backlog": "no connection",
    "cut": ANSWER[:100],
    "corrupt": bytes([ANSWER[0] ^ 0x10]) + ANSWER[1:],
    "half close": "end",
    "latency": "silence",
}


@pytest.mark.parametrize("name", HAPPENS)
async def test_a_fault_does_what_it_says_until_it_heals(proxy: FaultProxy, name: str) -> None:
    clients = []
    for fault, expected in ((HEALTHY, ANSWER), (FAULTS[name], HAPPENS[name]), (HEALTHY, ANSWER)):
        proxy.set(fault)
        clients.append(Client(proxy))
        assert await clients[-1].ask() == expected
    for client in clients:
        client.close()


@pytest.mark.parametrize("name", ["reset", "refuse", "full backlog"])
async def test_a_connection_that_was_open_is_hit_too(proxy: FaultProxy, name: str) -> None:
    client = Client(proxy)
    assert await client.ask() == ANSWER
    proxy.set(FAULTS[name])
    assert await client.ask() == "reset"
    client.close()


async def test_a_drip_comes_in_pieces(proxy: FaultProxy) -> None:
    proxy.set(Fault(drip=(100, 0.001)))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"?")
    pieces = []
    while sum(map(len, pieces)) < len(ANSWER):
        pieces.append(await reader.read(1000))
    assert b"".join(pieces) == ANSWER
    assert len(pieces) > 1
    writer.transport.abort()


async def test_exchanges_are_counted_and_not_packets(proxy: FaultProxy) -> None:
    client = Client(proxy)
    for _ in range(3):
        assert await client.ask() == ANSWER
    assert proxy.exchanges == 3
    client.close()


def test_it_is_switched_from_another_thread() -> None:
    with fault_proxies(1, 1) as (first, second):
        first.set(FAULTS["refuse"])
        assert (first.fault.listens, second.fault.listens) == ("refuse", "yes")
