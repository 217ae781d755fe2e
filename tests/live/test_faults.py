"""What clients notice when deployments fail: real sockets, the real product, three deployments behind fault proxies.

Every test has a model of its own, because a breaker belongs to a deployment. Long rounds are in bench/drills.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import pytest
import redis

from tests.faults import FAULTS, HEALTHY, Fault, FaultProxy, fault_proxies
from tests.live.gateway import LOOKING_OFTEN, Gateway, connection_to, gateway
from tests.live.world import recorded, saying
from tests.servers import free_port

pytestmark = pytest.mark.live
Json = dict[str, Any]

CONNECT, FIRST_BYTE, PATIENCE = 2.0, 30.0, 20.0  # seconds; PATIENCE: for what must happen at last
FAILING = ["reset", "black hole", "refuse", "full backlog", "cut", "corrupt", "half close"]
SLOW = {"latency": Fault(latency=0.4), "slow drip": Fault(drip=(100, 0.1))}
SIDE_BY_SIDE = 4  # calls at once


def name_of(fault: str) -> str:
    return fault.replace(" ", "-")


def models() -> list[Json]:
    def model(name: str, places: str = "abc", deployment: Json | None = None, **fields: Any) -> Json:
        deployments = [
            {"connection": place, "upstream_model": "gemini-2.5-flash", **(deployment or {})} for place in places
        ]
        return {"name": name, "unpriced": "serve", "deployments": deployments, **fields}

    def in_order(name: str, **fields: Any) -> Json:
        made = model(name, **fields)
        for priority, deployment in enumerate(made["deployments"]):
            deployment["priority"] = priority
        return made

    return [
        *(model(f"one-{name_of(fault)}", strategy="weighted") for fault in FAILING if fault != "black hole"),
        model("one-black-hole", strategy="weighted", first_byte_timeout=0.6),
        *(model(f"one-{name_of(fault)}") for fault in SLOW),
        model("all-refuse"),
        model("all-full-backlog"),
        model("all-silent", first_byte_timeout=1.0),
        model("all-503"),
        model("streams"),
        in_order("limited", places="ab"),
        model("patient", places="a"),
        model("model-first-byte", places="a", first_byte_timeout=0.4),
        model("deployment-first-byte", places="a", deployment={"first_byte_timeout": 0.4}, first_byte_timeout=25),
        model("deployment-connect", places="a", deployment={"connect_timeout": 0.4}),
        model("deployment-idle", places="a", deployment={"idle_timeout": 0.4}),
        model("deployment-total", places="a", deployment={"total_timeout": 0.6}),
        in_order("told", places="ab"),
        in_order("told-fallback", places="a", fallback_models=["told-spare"]),
        model("told-spare", places="b"),
        in_order("empty", places="ab", retry_empty=True),
        in_order("embeds", places="ab", deployment={"upstream_model": "gemini-embedding-001"}),
    ]


@dataclass
class House:
    """The product, its three upstreams' proxies, and the vendor behind all of them."""

    gateway: Gateway
    proxies: list[FaultProxy]
    vendor: Any
    client: httpx2.AsyncClient = field(init=False)

    def set(self, fault: Fault) -> None:
        for proxy in self.proxies:
            proxy.set(fault)

    async def ask(self, model: str, text: str = "Hi", url: str = "", **headers: str) -> httpx2.Response:
        return await self.client.post(
            f"{url}/v1beta/models/{model}:generateContent", json=saying(text), headers=headers
        )

    async def load(self, model: str, count: int, text: str = "Hi") -> list[httpx2.Response]:
        """So many answers, in the order in which they came."""
        answers: list[httpx2.Response] = []
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                answers.append(await self.ask(model, text))

        await asyncio.gather(*(caller() for _ in range(SIDE_BY_SIDE)))
        return answers

    def attempts(self, answers: list[httpx2.Response]) -> list[list[Json]]:
        """The recorded tries of each of these calls."""
        ids = [answer.headers["x-request-id"] for answer in answers]
        found = recorded(self.gateway, ids)
        return [found[id_]["attempts"] for id_ in ids]


@contextmanager
def running(vendor: Any, **given: Any) -> Iterator[House]:
    with fault_proxies(*[int(vendor.url.rpartition(":")[2])] * 3) as proxies:
        connections = [connection_to(proxy, "gemini", name) for proxy, name in zip(proxies, "abc", strict=True)]
        configuration = {
            "organizations": [{"slug": "acme", "name": "Acme"}],
            "connections": connections,
            "models": models(),
            "keys": [{"organization": "acme", "name": "ci"}],
        }
        environment = {
            "GATEHOUSE_UPSTREAM_CONNECT_TIMEOUT": str(CONNECT),
            "GATEHOUSE_UPSTREAM_FIRST_BYTE_TIMEOUT": str(FIRST_BYTE),
            "GATEHOUSE_BREAKER_SECONDS": "0.3",
            **LOOKING_OFTEN,
        }
        with gateway(configuration, environment=environment, **given) as made:
            yield House(made, proxies, vendor)


@pytest.fixture(scope="module")
def _house(_running_upstreams: Callable[[str], Any]) -> Iterator[House]:
    with running(_running_upstreams("gemini")) as house:
        yield house


@pytest.fixture
async def house(_house: House) -> AsyncIterator[House]:
    _house.set(HEALTHY)
    _house.vendor.forget()
    headers = {"x-goog-api-key": _house.gateway.keys["ci"]}
    async with httpx2.AsyncClient(base_url=_house.gateway.url, headers=headers, timeout=60) as client:
        _house.client = client
        yield _house
    _house.set(HEALTHY)


async def until(happened: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, why
        await asyncio.sleep(0.01)


def statuses(answers: list[httpx2.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def tries_at(place: str, waterfalls: list[list[Json]]) -> int:
    return sum(
        note["outcome"] != "skipped" and note["deployment"].endswith(f" at {place}")
        for notes in waterfalls
        for note in notes
    )


# ── one of three ──


@pytest.mark.parametrize("fault", FAILING)
async def test_clients_do_not_notice_that_one_fails_and_it_gets_its_share_again(house: House, fault: str) -> None:
    model, bad = f"one-{name_of(fault)}", house.proxies[0]
    assert set(statuses(await house.load(model, 12))) == {200}

    bad.set(FAULTS[fault])
    answers = await house.load(model, 60)
    # Who waits for the first byte in vain is tried elsewhere only if somebody answered meanwhile.
    allowed = SIDE_BY_SIDE if fault == "black hole" else 0
    assert statuses(answers).count(200) >= len(answers) - allowed
    assert tries_at("a", house.attempts(answers[30:])) <= 8, "only probes, when it is known to fail"

    bad.set(HEALTHY)
    deadline, before, share = time.monotonic() + PATIENCE, 0, 0
    while share < 6:  # of 30 calls; 10 would be its share
        assert time.monotonic() < deadline, f"it got {share} of 30 calls"
        before = bad.exchanges
        assert set(statuses(await house.load(model, 30))) == {200}
        share = bad.exchanges - before


@pytest.mark.parametrize("fault", SLOW)
async def test_traffic_leaves_a_slow_one_without_an_error(house: House, fault: str) -> None:
    model, slow = f"one-{name_of(fault)}", house.proxies[0]
    assert set(statuses(await house.load(model, 12))) == {200}
    slow.set(SLOW[fault])
    assert set(statuses(await house.load(model, 30))) == {200}
    before = slow.exchanges
    assert set(statuses(await house.load(model, 60))) == {200}
    assert slow.exchanges - before <= 8


# ── all of them ──


def is_googles(answer: httpx2.Response, code: int, status: str) -> bool:
    error = answer.json()["error"]
    return (answer.status_code, error["code"], error["status"]) == (code, code, status) and bool(error["message"])


@pytest.mark.parametrize("fault", ["refuse", "full backlog"])
async def test_when_none_can_be_connected_to_all_tries_share_one_connect_time(house: House, fault: str) -> None:
    house.set(FAULTS[fault])
    began = time.monotonic()
    answer = await house.ask(f"all-{name_of(fault)}")
    assert time.monotonic() - began < CONNECT + 1  # each of two tries with a whole one would be twice that
    assert is_googles(answer, 503, "UNAVAILABLE")
    (notes,) = house.attempts([answer])
    assert {note["outcome"] for note in notes} <= {"connect", "skipped"}
    assert len({note["deployment"] for note in notes}) >= 2, "more than one was tried"


@pytest.mark.parametrize("action", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_when_all_are_silent_the_client_hears_of_it_after_one_first_byte_time(house: House, action: str) -> None:
    house.set(FAULTS["black hole"])
    began = time.monotonic()
    answer = await house.client.post(f"/v1beta/models/all-silent:{action}", json=saying("Hi"))
    assert time.monotonic() - began < 1.0 + 1
    assert is_googles(answer, 504, "DEADLINE_EXCEEDED")


async def test_when_all_answer_503_the_gateway_does_not_multiply_the_calls(house: House) -> None:
    answers = await house.load("all-503", 150, "[[error:503]]")
    assert all(is_googles(answer, 503, "UNAVAILABLE") for answer in answers)
    assert len(house.vendor.requests) <= 1.1 * len(answers)


# ── deadlines ──


async def test_a_clients_own_deadline_ends_its_call_and_hangs_up_on_the_upstream(house: House) -> None:
    began = time.monotonic()
    answer = await house.ask("patient", "[[hang]]", **{"x-server-timeout": "0.5"})
    assert time.monotonic() - began < FIRST_BYTE / 2
    assert is_googles(answer, 504, "DEADLINE_EXCEEDED")
    await until(lambda: house.vendor.requests[-1].left, "the upstream still works for nobody")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("model-first-byte", "[[hang]]"),
        ("deployment-first-byte", "[[hang]]"),
        ("deployment-total", "[[hang]]"),
    ],
)
async def test_models_and_deployments_have_time_outs_of_their_own(house: House, model: str, text: str) -> None:
    began = time.monotonic()
    answer = await house.ask(model, text)
    assert is_googles(answer, 504, "DEADLINE_EXCEEDED")
    assert time.monotonic() - began < FIRST_BYTE / 2


async def test_a_deployment_has_a_connect_time_of_its_own(house: House) -> None:
    house.set(FAULTS["full backlog"])
    answer = await house.ask("deployment-connect")
    assert is_googles(answer, 503, "UNAVAILABLE")
    (notes,) = house.attempts([answer])
    assert sum(note["duration_ms"] for note in notes) < CONNECT * 500  # 200 ms a try, where the site's would be 1,000


@pytest.mark.parametrize(
    ("model", "text"),
    [("deployment-idle", "[[long:6]] [[pace:20]]"), ("deployment-total", "[[long:600]] [[pace:0.1]]")],
)
async def test_a_stream_ends_with_an_error_at_its_deployments_time_out(house: House, model: str, text: str) -> None:
    began = time.monotonic()
    url = f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
    answer = await house.client.post(url, json=saying(text))
    assert time.monotonic() - began < FIRST_BYTE / 2
    assert answer.status_code == 200
    *chunks, error, bare = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert "candidates" in json.loads(chunks[0])
    assert json.loads(error)["error"]["status"] == json.loads(bare)["error"]["status"] == "DEADLINE_EXCEEDED"


# ── what is written down about the tries ──


def told(house: House, call_id: str) -> tuple[list[tuple[str, str]], Json]:
    """(connection, outcome) of each try, and the whole record."""
    row = recorded(house.gateway, [call_id])[call_id]
    return [(note["deployment"].rpartition(" ")[2], note["outcome"]) for note in row["attempts"]], row


async def test_the_record_tells_of_a_success_and_of_a_failover(house: House) -> None:
    waterfall, row = told(house, (await house.ask("told")).headers["x-request-id"])
    assert waterfall == [("a", "ok")]
    (note,) = row["attempts"]
    assert (row["http_status"], row["status"]) == (200, "OK")
    assert note["reason"] and note["error"] == "" and note["ttft_ms"] is not None

    house.proxies[0].set(FAULTS["refuse"])
    waterfall, row = told(house, (await house.ask("told")).headers["x-request-id"])
    assert waterfall == [("a", "connect"), ("b", "ok")]
    first, second = row["attempts"]
    assert first["error"] and first["ttft_ms"] is None
    assert first["offset_ms"] <= first["offset_ms"] + first["duration_ms"] <= second["offset_ms"] + 1

    house.proxies[0].set(HEALTHY)
    house.vendor.faults.append("503")
    waterfall, row = told(house, (await house.ask("told")).headers["x-request-id"])
    assert waterfall == [("a", "unavailable"), ("b", "ok")]
    assert row["attempts"][0]["provider_status"] == 503


async def test_the_record_tells_of_a_call_that_its_client_left(house: House) -> None:
    call = asyncio.ensure_future(house.ask("told", "[[hang]]"))
    await until(lambda: house.vendor.requests, "it was not sent")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: house.vendor.requests[-1].left, "the upstream still works for nobody")
    url = "/v1beta/models/told:streamGenerateContent?alt=sse"
    async with house.client.stream("POST", url, json=saying("[[long:600]] [[pace:0.05]]")) as answer:
        async for _ in answer.aiter_raw():
            break
        streamed = answer.headers["x-request-id"]
    waterfall, row = told(house, streamed)
    assert waterfall == [("a", "cancelled")]
    assert (row["http_status"], row["flags"][0]) == (499, "cancelled")
    assert row["attempts"][0]["ttft_ms"] is not None


async def test_the_record_tells_of_a_stream_that_broke_off_and_was_not_tried_again(house: House) -> None:
    url = "/v1beta/models/told:streamGenerateContent?alt=sse"
    answer = await house.client.post(url, json=saying("[[cut:after=2]] [[long:6]]"))
    assert answer.status_code == 200
    waterfall, row = told(house, answer.headers["x-request-id"])
    assert waterfall == [("a", "cut")]
    assert "cut" in row["flags"]
    assert row["http_status"] == 503
    assert len(house.vendor.requests) == 1


async def test_the_record_tells_that_a_fallback_model_answered(house: House) -> None:
    house.proxies[0].set(FAULTS["refuse"])
    waterfall, row = told(house, (await house.ask("told-fallback")).headers["x-request-id"])
    assert waterfall == [("a", "connect"), ("b", "ok")]
    assert row["model"] == "told-fallback"
    assert row["attempts"][1]["reason"].startswith("fallback model told-spare")


@pytest.mark.parametrize("action", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_an_empty_answer_is_asked_for_elsewhere_and_a_refused_one_is_an_answer(house: House, action: str) -> None:
    """Where the model says so: the whole of a stream is empty when its chunks say nothing, and none of them has left."""

    async def ask(text: str) -> tuple[httpx2.Response, list[tuple[str, str]]]:
        answer = await house.client.post(f"/v1beta/models/empty:{action}", json=saying(text))
        (notes,) = await asyncio.to_thread(house.attempts, [answer])
        return answer, [(note["deployment"][-1], note["outcome"]) for note in notes]

    answer, tries = await ask("[[empty]]")
    assert (answer.status_code, [outcome for _, outcome in tries]) == (200, ["empty", "empty", "ok"])
    assert "STOP" in answer.text, "all are empty: that is the answer"
    answer, tries = await ask("[[safety]]")
    assert (answer.status_code, tries) == (200, [("a", "ok")])
    assert "SAFETY" in answer.text
    answer, tries = await ask("[[text:Hello]]")
    assert (answer.status_code, tries) == (200, [("a", "ok")])
    assert "Hello" in answer.text


async def test_an_embedding_that_cannot_be_read_is_asked_for_elsewhere(house: House) -> None:
    house.vendor.faults.append("200 garbage")
    body = {"content": {"parts": [{"text": "Hi"}]}}
    answer = await house.client.post("/v1beta/models/embeds:embedContent", json=body)
    assert answer.status_code == 200, answer.text
    assert told(house, answer.headers["x-request-id"])[0] == [("a", "protocol"), ("b", "ok")]


# ── two processes over one Redis ──


@pytest.fixture(scope="module")
def _second(_house: House) -> Iterator[Gateway]:
    """Another process of the same installation."""
    port = free_port()
    made = replace(_house.gateway, url=f"http://127.0.0.1:{port}", port=port, process=None)
    yield made
    made.kill()


@pytest.fixture
def second(_second: Gateway) -> Gateway:
    """It, running: a test may have killed it."""
    if _second.process is None:
        _second.start()
    return _second


class Shared:
    """What the processes tell each other about deployments, read in Redis."""

    TAG = "{gatehouse:routing}"

    def __init__(self, house: House) -> None:
        self.redis = redis.Redis.from_url(house.gateway.environment["REDIS_URL"])

    def reports(self) -> dict[bytes, tuple[int, Json]]:
        found = {}
        for process, text in self.redis.hgetall(f"{self.TAG}:reports").items():
            stamp, _, report = text.partition(b" ")
            found[process] = (int(stamp), json.loads(report))
        return found

    def in_flight(self) -> int:
        return int(sum(each[0] for _, report in self.reports().values() for each in report.values()))

    async def heard_by_all(self) -> None:
        """Until every process has read what is in Redis now."""
        seconds, micros = self.redis.time()
        now = seconds * 1000 + micros // 1000
        await until(lambda: all(stamp > now for stamp, _ in self.reports().values()), "a process does not report")


@pytest.fixture
def shared(house: House, redis_url: str) -> Iterator[Shared]:
    made = Shared(house)
    yield made
    made.redis.close()


async def test_no_process_calls_a_deployment_before_its_retry_after(
    house: House, shared: Shared, second: Gateway
) -> None:
    limited, spare = house.proxies[:2]
    assert (await house.ask("limited", url=second.url)).status_code == 200
    house.vendor.faults.append("429 retry-after=3")
    before = limited.exchanges
    assert (await house.ask("limited")).status_code == 200
    ends = time.monotonic() + 3 - 0.1  # the clocks of two processes
    assert (limited.exchanges, house.vendor.requests[-2].answered) == (before + 1, 429)
    await until(lambda: shared.redis.hlen(f"{shared.TAG}:breakers"), "the pause is not told")
    await shared.heard_by_all()
    while time.monotonic() < ends:
        seen = limited.exchanges
        for url in ("", second.url):
            assert (await house.ask("limited", url=url)).status_code == 200
        assert seen == before + 1 or time.monotonic() >= ends
        await asyncio.sleep(0.02)  # what is asked is whether, not how often
    assert spare.exchanges >= 2

    async def back(url: str) -> None:
        known, deadline = limited.exchanges, time.monotonic() + PATIENCE
        while limited.exchanges == known:
            assert time.monotonic() < deadline, "it is never called again"
            assert (await house.ask("limited", url=url)).status_code == 200

    await back("")
    await back(second.url)


async def test_nothing_stays_in_flight_after_cancels_failures_and_a_killed_process(
    house: House, shared: Shared, second: Gateway
) -> None:
    chance = random.Random(1)
    texts = ["[[long:30]] [[pace:0.02]]", "[[long:4]]", "[[cut:after=2]] [[long:6]]", "[[midstream-error:after=2]]"]

    async def one(number: int, url: str = "", text: str = "") -> None:
        prompt = saying(text or texts[number % len(texts)])
        leaves_after = chance.randrange(1, 40) if number % 2 else None
        address = f"{url}/v1beta/models/streams:streamGenerateContent?alt=sse"
        async with house.client.stream("POST", address, json=prompt) as answer:
            pieces = 0
            async for _ in answer.aiter_raw():
                pieces += 1
                if pieces == leaves_after:
                    return

    await asyncio.gather(*(one(number) for number in range(40)))
    doomed = [asyncio.ensure_future(one(0, second.url, "[[long:900]] [[pace:0.1]]")) for _ in range(8)]
    await until(lambda: shared.in_flight() >= 8, "they do not show")
    second.kill()
    ended = await asyncio.gather(*doomed, return_exceptions=True)
    assert all(isinstance(each, httpx2.TransportError) for each in ended)
    await until(lambda: not shared.in_flight(), "something stays in flight")
    said = json.loads(house.gateway.manage("explain", "--model", "streams", "--key", "ci", "--json", "--skip-checks"))
    assert said["live"]
    assert {row["in_flight"] for row in said["deployments"]} == {0}
    assert (await house.ask("streams")).status_code == 200
