"""One exchange with an upstream over a real socket: what comes back, what goes wrong, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from routing import addresses, http1, upstream
from routing.backends.base import UpstreamRequest
from routing.catalog import DeploymentEntry, Timeouts
from routing.errors import UpstreamError, UpstreamRefusal
from tests.routing.servers import SSE_HEAD, RawServer, Seen, Wire, answer, deployment, raw_server


@pytest.fixture(autouse=True)
async def closed_afterwards() -> AsyncIterator[None]:
    yield
    await upstream.close()


def post(server: RawServer | str, path: str = "/", body: bytes = b"{}", **headers: str) -> UpstreamRequest:
    url = server if isinstance(server, str) else server.url
    return UpstreamRequest(url + path, {"content-type": "application/json", **headers}, body)


def pools() -> list[http1.Pool]:
    return list(upstream._pools.get(asyncio.get_running_loop(), {}).values())


async def failing(entry: DeploymentEntry, request: UpstreamRequest, deadline: float | None = None) -> UpstreamError:
    """The same error, whether the answer is read whole or as a stream."""
    with pytest.raises(UpstreamError) as whole:
        await upstream.send(entry, request, deadline=deadline)
    with pytest.raises(UpstreamError) as streamed:
        async with upstream.open_stream(entry, request, deadline=deadline) as stream:
            async for _frame in stream:
                pass
    assert (whole.value.kind, whole.value.sent) == (streamed.value.kind, streamed.value.sent)
    return whole.value


# ---- answers


async def test_an_answer_comes_back_whole_and_the_connection_is_used_again() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(answer(b'{"n":%d}' % len(seen.body), headers="X-Request-Id: r1\r\n"))

    async with raw_server(script) as server:
        for size in (2, 200_000, 0):
            found = await upstream.send(deployment(server.url), post(server, body=b"x" * size))
            assert (found.status, found.body) == (200, b'{"n":%d}' % size)
            assert found.headers["x-request-id"] == "r1"
        assert server.connections == 1


async def test_the_request_is_exactly_what_was_prepared() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(answer(b"{}"))

    async with raw_server(script) as server:
        path = "/model/a%3A0%2Fb/converse?alt=sse"
        await upstream.send(deployment(server.url), post(server, path, b'{"a":1}', authorization="Bearer k"))
    (seen,) = server.requests
    assert (seen.method, seen.path, seen.body) == ("POST", path, b'{"a":1}')
    assert seen.headers == {
        "host": f"127.0.0.1:{server.port}",
        "content-type": "application/json",
        "authorization": "Bearer k",
        "content-length": "7",
    }


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], id="by length"),
        pytest.param([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"], id="chunked"),
        pytest.param([b"HTTP/1.1 200 OK\r\n\r\nhe", b"llo", None], id="until the connection ends"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], id="after 100"),
        pytest.param([b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], id="after 103"),
        pytest.param([b"H", b"TTP/1.1 200 OK\r\nconte", b"nt-length: 5\r\n\r", b"\nhel", b"lo"], id="in pieces"),
        pytest.param([b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", None], id="HTTP/1.0"),
    ],
)  # fmt: skip
async def test_every_way_of_framing_an_answer_is_read(raw: list[bytes | None]) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        for piece in raw:
            if piece is None:
                wire.writer.close()
            else:
                await wire.write(piece)

    async with raw_server(script) as server:
        for _ in range(2):
            assert (await upstream.send(deployment(server.url), post(server))).body == b"hello"


async def test_the_first_frame_is_there_before_the_second_is_sent() -> None:
    heard = asyncio.Event()

    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(SSE_HEAD)
        await wire.chunk(b"data: 1\n\n")
        await heard.wait()
        await wire.chunk(b"data: 2\n\n")
        await wire.write(b"0\r\n\r\n")

    frames = []
    async with raw_server(script) as server, upstream.open_stream(deployment(server.url), post(server)) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        async for frame in stream:
            frames.append(frame.data)
            heard.set()
    assert frames == [b"1", b"2"]


async def test_a_slow_reader_slows_the_upstream_down_instead_of_filling_memory() -> None:
    total = 64
    sent = 0

    async def script(seen: Seen, wire: Wire) -> None:
        nonlocal sent
        await wire.write(SSE_HEAD)
        for _ in range(total):
            await wire.chunk(b"data: " + b"x" * 1_000_000 + b"\n\n")
            sent += 1
        await wire.write(b"0\r\n\r\n")

    async with raw_server(script) as server, upstream.open_stream(deployment(server.url), post(server)) as stream:
        frames = aiter(stream)
        await anext(frames)
        for _ in range(200):  # turns of the loop, in which an unhindered server would have sent everything
            await asyncio.sleep(0)
        assert sent < total / 2
        assert len([frame async for frame in frames]) == total - 1


# ---- refusals


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "429 Slow down", "500 Oops", "503 Busy", "529 Overloaded"])
async def test_another_status_is_a_refusal_with_its_body_and_headers(status: str) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(answer(b'{"error":1}', status, "Retry-After: 7\r\n"))

    async with raw_server(script) as server:
        for _ in range(2):
            with pytest.raises(UpstreamRefusal) as refusal:
                await upstream.send(deployment(server.url), post(server))
            assert (refusal.value.status, refusal.value.body) == (int(status[:3]), b'{"error":1}')
            assert refusal.value.headers["retry-after"] == "7"
        with pytest.raises(UpstreamRefusal):
            async with upstream.open_stream(deployment(server.url), post(server)):
                pass
        assert server.connections == 1


async def test_a_redirect_is_not_followed_and_means_unavailable() -> None:
    async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as elsewhere:

        async def script(seen: Seen, wire: Wire) -> None:
            await wire.write(answer(b"", "307 Moved", f"location: {elsewhere.url}/\r\n"))

        async with raw_server(script) as server:
            error = await failing(deployment(server.url), post(server, **{"x-api-key": "secret"}))
    assert (error.kind, error.provider_status) == ("unavailable", 307)
    assert elsewhere.requests == []


async def test_only_the_beginning_of_an_enormous_error_body_is_read() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n")
        while not wire.gone.is_set():
            await wire.chunk(b"x" * 65536)
            await asyncio.sleep(0)

    async with raw_server(script) as server:
        with pytest.raises(UpstreamRefusal) as refusal:
            await upstream.send(deployment(server.url), post(server))
        assert len(refusal.value.body) == upstream.MAX_ERROR_BODY
        await server.until(lambda: server.open_connections == 0)


# ---- trouble


async def test_a_refused_connection_says_that_nothing_was_sent() -> None:
    async with raw_server(lambda seen, wire: wire.write(b"")) as server:
        gone = server.url
    error = await failing(deployment(gone), post(gone))
    assert (error.kind, error.sent) == ("connect", False)


async def test_a_name_without_an_address_says_that_nothing_was_sent() -> None:
    error = await failing(deployment("http://nowhere.invalid"), post("http://nowhere.invalid"))
    assert (error.kind, error.sent) == ("connect", False)


@pytest.mark.parametrize(
    ("url", "allow_private"),
    [
        ("http://127.0.0.1:9", False),
        ("http://localhost:9", False),
        ("http://169.254.169.254", True),
        ("http://[::1]:9", False),
    ],
)
async def test_a_forbidden_address_is_never_connected_to(url: str, allow_private: bool) -> None:
    error = await failing(deployment(url, allow_private=allow_private), post(url))
    assert (error.kind, error.sent) == ("connect", False)


async def test_a_name_is_connected_to_only_at_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the resolver says something harmless first, and this machine afterwards."""
    answers = iter([["198.51.100.7", "127.0.0.1"], ["127.0.0.1"]])
    loop = asyncio.get_running_loop()

    async def lookup(host: str, port: int, **kwargs: Any) -> list[Any]:
        return [(2, 1, 6, "", (each, port)) for each in next(answers)]

    monkeypatch.setattr(loop, "getaddrinfo", lookup)
    with pytest.raises(addresses.AddressRefused):
        await addresses.resolve("rebind.test", 80, False)
    async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as server:
        url = f"http://rebind.test:{server.port}"
        error = await _only_unary(deployment(url, allow_private=False), post(url))
    assert (error.kind, server.connections) == ("connect", 0)


async def _only_unary(entry: DeploymentEntry, request: UpstreamRequest) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        await upstream.send(entry, request)
    return error.value


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "cut"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "cut"),
        (HEAD + b"half", "cut"),
        (SSE_HEAD + b"5\r\nda", "cut"),
        (SSE_HEAD + b"8\r\ndata: 1\n\r\n", "cut"),
        (b"SSH-2.0 hello\r\n\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "protocol"),
    ],
)
async def test_an_answer_that_breaks_off_or_is_not_http_is_told_apart(raw: bytes, kind: str) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(raw)
        wire.writer.close()

    async with raw_server(script) as server:
        error = await failing(deployment(server.url), post(server))
    assert (error.kind, error.sent) == (kind, True)


async def test_a_compressed_answer_is_refused_rather_than_inflated() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(answer(gzip.compress(b"{}"), headers="content-encoding: gzip\r\n"))

    async with raw_server(script) as server:
        assert (await failing(deployment(server.url), post(server))).kind == "protocol"


async def test_an_answer_has_a_largest_size(settings: Any) -> None:
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update={"upstream_max_answer": 1000})

    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(answer(b"x" * int(seen.body)))

    async with raw_server(script) as server:
        entry = deployment(server.url)
        assert len((await upstream.send(entry, post(server, body=b"1000"))).body) == 1000
        assert (await _only_unary(entry, post(server, body=b"1001"))).kind == "protocol"
        assert len((await upstream.send(entry, post(server, body=b"999"))).body) == 999


@pytest.mark.parametrize(
    ("url", "headers"),
    [("/a b", {}), ("/", {"x-key": "a\r\nhost: b"}), ("/", {"x key": "a"}), ("/\r\n", {}), ("/", {"x": "a\0"})],
)
async def test_a_request_that_would_not_stay_one_request_is_not_sent(url: str, headers: dict[str, str]) -> None:
    async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as server:
        error = await failing(deployment(server.url), post(server, url, **headers))
        assert (error.kind, error.sent, server.connections) == ("connect", False, 0)


async def test_an_idle_connection_that_the_server_has_closed_costs_no_call() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        if len(server.requests) == 2:  # this connection was used before, and goes now, unanswered
            wire.abort()
        else:
            await wire.write(answer(b"{}"))

    async with raw_server(script) as server:
        for _ in range(2):
            assert (await upstream.send(deployment(server.url), post(server))).status == 200
        assert len(server.requests) == 3


async def test_a_new_connection_that_is_closed_without_an_answer_is_not_tried_twice() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        wire.abort()

    async with raw_server(script) as server:
        assert (await _only_unary(deployment(server.url), post(server))).kind == "cut"
        assert len(server.requests) == 1


async def test_an_answer_before_the_end_of_the_request_does_not_spoil_the_next_call() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"{}", "413 Too large" if connections == 1 else "200 OK"))
        await writer.drain()
        if connections > 1:
            writer.close()
        else:
            await over.wait()  # reads nothing more
            writer.close()

    connections, over = 0, asyncio.Event()
    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    with pytest.raises(UpstreamRefusal):
        await upstream.send(deployment(url), post(url, body=b"x" * 20_000_000))
    assert (await upstream.send(deployment(url), post(url))).body == b"{}"
    over.set()
    listening.close()
    await listening.wait_closed()


# ---- time


async def silence(seen: Seen, wire: Wire) -> None:
    await wire.gone.wait()


@pytest.mark.parametrize("limits", [{"first_byte": 0.05}, {"total": 0.05}])
async def test_silence_ends_at_the_first_deadline_and_closes_the_connection(limits: dict[str, float]) -> None:
    async with raw_server(silence) as server:
        error = await failing(deployment(server.url, **limits), post(server))  # type: ignore[arg-type]  # floats only
        assert (error.kind, error.sent) == ("timeout", True)
        await server.until(lambda: server.open_connections == 0)


async def test_the_callers_deadline_goes_before_the_deployments() -> None:
    async with raw_server(silence) as server:
        with pytest.raises(UpstreamError) as error_in_time:
            await upstream.send(deployment(server.url), post(server), deadline=time.monotonic() + 0.05)
        assert (error_in_time.value.kind, error_in_time.value.sent) == ("timeout", True)
        error = await failing(deployment(server.url), post(server), deadline=time.monotonic() - 1)
        assert (error.kind, error.sent) == ("timeout", False)


async def test_a_try_waits_for_what_is_left_and_never_longer_than_half_for_a_connection() -> None:
    async with raw_server(silence) as server:
        entry = deployment(server.url, connect=0.4, first_byte=60.0)
        left = Timeouts(connect=0.4, first_byte=0.05, idle=5.0, total=60.0)
        with pytest.raises(UpstreamError) as silent:
            await upstream.send(entry, post(server), timeouts=left)
        assert (silent.value.kind, silent.value.sent) == ("timeout", True)
        assert upstream._Exchange(entry, None, None)._connect_wait == 0.2
        assert upstream._Exchange(entry, None, replace(left, connect=0.1))._connect_wait == 0.1


async def test_a_stream_that_falls_silent_ends_at_the_idle_deadline() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(SSE_HEAD)
        await wire.chunk(b"data: 1\n\n")
        await wire.gone.wait()

    async with raw_server(script) as server:
        error = await failing(deployment(server.url, idle=0.05), post(server))
        assert (error.kind, error.sent) == ("timeout", True)


async def test_a_drip_that_is_never_idle_ends_at_the_total_deadline() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(SSE_HEAD)
        while not wire.gone.is_set():
            await wire.chunk(b"data: 1\n\n")
            await asyncio.sleep(0.01)

    async with raw_server(script) as server:
        error = await failing(deployment(server.url, idle=5, total=0.2), post(server))
        assert error.kind == "timeout"


async def test_a_head_without_a_body_still_has_to_bring_its_first_byte_in_time() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(SSE_HEAD)
        await wire.gone.wait()

    async with raw_server(script) as server:
        assert (await failing(deployment(server.url, first_byte=0.05), post(server))).kind == "timeout"


# ---- leaving


@pytest.mark.parametrize("said", [b"", SSE_HEAD, SSE_HEAD + b"9\r\ndata: 1\n\n\r\n"], ids=["nothing", "head", "frame"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_closes_the_connection_at_once_whatever_was_heard(said: bytes, streamed: bool) -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(said)
        asked.set()
        await wire.gone.wait()
        gone.set()

    async def call() -> None:
        if not streamed:
            await upstream.send(deployment(server.url), post(server))
            return
        async with upstream.open_stream(deployment(server.url), post(server)) as stream:
            async for _frame in stream:
                pass

    asked, gone = asyncio.Event(), asyncio.Event()
    async with raw_server(script) as server:
        task = asyncio.create_task(call())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await gone.wait()
        await server.until(lambda: server.open_connections == 0)
    assert not any(pool.open for pool in pools())


async def test_leaving_a_stream_early_hangs_up() -> None:
    async def script(seen: Seen, wire: Wire) -> None:
        await wire.write(SSE_HEAD)
        await wire.chunk(b"data: 1\n\n")
        await wire.gone.wait()

    async with raw_server(script) as server:
        async with upstream.open_stream(deployment(server.url), post(server)) as stream:
            await anext(stream)
        await server.until(lambda: server.open_connections == 0)


async def test_after_500_calls_cancelled_at_random_moments_nothing_is_left_and_50_calls_get_their_own_answers() -> None:
    chance = random.Random(5)

    async def script(seen: Seen, wire: Wire) -> None:
        if seen.path == "/stream":
            await wire.write(SSE_HEAD)
            for _ in range(5):
                await wire.chunk(b"data: " + seen.body + b"\n\n")
                await asyncio.sleep(0)
            await wire.write(b"0\r\n\r\n")
        else:
            await asyncio.sleep(chance.random() / 200)
            await wire.write(answer(seen.body))

    async def call(number: int) -> None:
        mark = b'{"n":%d}' % number
        if number % 2:
            assert (await upstream.send(deployment(server.url), post(server, body=mark))).body == mark
            return
        async with upstream.open_stream(deployment(server.url), post(server, "/stream", mark)) as stream:
            assert {frame.data async for frame in stream} == {mark}

    async def impatient(number: int) -> None:
        task = asyncio.create_task(call(number))
        await asyncio.sleep(chance.random() / 100)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
            raise asyncio.CancelledError  # it was quicker

    tasks_before = len(asyncio.all_tasks())
    async with raw_server(script) as server:
        for start in range(0, 500, 50):
            await asyncio.gather(*(impatient(number) for number in range(start, start + 50)))
        (pool,) = pools()
        assert len(pool.open) == len(pool._idle)
        await asyncio.gather(*(call(number) for number in range(1000, 1050)))
        assert len(pool.open) == len(pool._idle)
        await upstream.close()
        await server.until(lambda: server.open_connections == 0)
    assert pool.open == set()
    assert len(asyncio.all_tasks()) == tasks_before


async def test_closing_ends_what_is_in_use() -> None:
    async with raw_server(silence) as server:
        task = asyncio.create_task(upstream.send(deployment(server.url), post(server)))
        await server.until(lambda: len(server.requests) == 1)
        await upstream.close()
        with pytest.raises(UpstreamError) as error:
            await task
        assert error.value.kind == "cut"


async def test_connections_are_not_shared_between_connection_rows() -> None:
    async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as server:
        for row in ("c1", "c2", "c1"):
            await upstream.send(deployment(server.url, connection_id=row), post(server))
        assert server.connections == 2


async def test_a_proxy_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with raw_server(lambda seen, wire: wire.write(answer(b"{}"))) as server:
            await upstream.send(deployment(server.url), post(server))
        assert (len(server.requests), proxy.connections) == (1, 0)


# ---- uvloop: what servers run on


@pytest.mark.parametrize(
    "promise",
    [
        test_an_answer_comes_back_whole_and_the_connection_is_used_again,
        test_the_first_frame_is_there_before_the_second_is_sent,
        test_a_slow_reader_slows_the_upstream_down_instead_of_filling_memory,
        test_a_refused_connection_says_that_nothing_was_sent,
        test_an_idle_connection_that_the_server_has_closed_costs_no_call,
        test_a_stream_that_falls_silent_ends_at_the_idle_deadline,
        test_leaving_a_stream_early_hangs_up,
        test_after_500_calls_cancelled_at_random_moments_nothing_is_left_and_50_calls_get_their_own_answers,
        test_closing_ends_what_is_in_use,
    ],
    ids=lambda promise: promise.__name__.removeprefix("test_"),
)
def test_it_holds_on_uvloop_too(promise: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def kept() -> None:
        await promise()
        await upstream.close()

    uvloop.run(kept())


# ---- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for `localhost` that signs itself."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - only here

    from cryptography import x509  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - only here

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("host", "trusted", "works"), [("localhost", True, True), ("localhost", False, False), ("127.0.0.1", True, False)]
)
async def test_tls_needs_a_trusted_certificate_for_the_very_name(
    certificate: Path, host: str, trusted: bool, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    http1.tls_context.cache_clear()
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", os.fspath(certificate))
    try:
        async with raw_server(lambda seen, wire: wire.write(answer(b"{}")), tls=serving) as server:
            url = f"https://{host}:{server.port}"
            if works:
                for _ in range(3):
                    assert (await upstream.send(deployment(url), post(url))).status == 200
                assert server.connections == 1
            else:
                error = await _only_unary(deployment(url), post(url))
                assert (error.kind, error.sent) == ("connect", False)
                assert "certificate" in error.message
            await upstream.close()
    finally:
        http1.tls_context.cache_clear()
