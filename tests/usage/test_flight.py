"""One call from admission to the ledger: what it is charged, and that it always is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys.context import LimitRule
from keys.limits.base import Ask, Hold, Used
from lib import json
from routing.note import Note
from tests.usage.events import Unlisted, deployment, key
from usage import flight, prices, spool
from usage.event import Tokens
from usage.flight import Flight

# gpt-4o: 2.50 USD in, 10 USD out per million tokens = 2,500 and 10,000 nano-dollars a token.
IN, OUT = 2_500, 10_000
HOLDS_MONEY = LimitRule("limit-1", "key", "key-1", "spend", "month", 10**12)


class Counter:
    """A limiter that only remembers how it was told."""

    def __init__(self) -> None:
        self.settled: list[Used] = []
        self.released = 0

    def settle(self, hold: Hold, used: Used) -> None:
        self.settled.append(used)

    def release(self, hold: Hold) -> None:
        self.released += 1

    def reached(self, hold: Hold) -> None:
        """Told once, when the first deployment is tried."""


@pytest.fixture(autouse=True)
def open_spool(tmp_path: Path) -> Iterator[None]:
    spool.open_in(tmp_path)
    yield
    spool.close()


@pytest.fixture
def limiter() -> Counter:
    return Counter()


def begin(limiter: Counter, *, tokens: int = 1_000, spend: int = 5_000_000, prompt: int = 100, **given: Any) -> Flight:
    call = flight.open(key(), action="generateContent", model="gemini-2.5-flash", limiter=limiter, **given)
    ask = Ask(call.call_id, "gemini-2.5-flash", tokens, spend)
    call.asked(ask, prompt)
    call.admitted(Hold(call.call_id, "org-1", (HOLDS_MONEY,), ask, 0.0))
    return call


def written() -> list[tuple[str, dict[str, Any]]]:
    lines = [line for segment in spool.current().segments for line in segment.lines().whole]
    return [(kind.decode(), json.loads(payload)) for kind, payload in lines]


def test_an_answered_call_is_charged_what_the_upstream_reported(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment(), dropped=("generationConfig.topK",))
        call.delivered(4_000)
        call.saw(Tokens(prompt=90, candidates=10, thoughts=5))
        call.finish(200, finish_reason="STOP")
    (start, _), (end, event) = written()
    assert (start, end) == ("S", "F")
    assert event["cost_nano"] == 90 * IN + 15 * OUT
    assert event["flags"] == []
    assert event["dropped"] == ["generationConfig.topK"]
    assert event["price_version"].startswith("genai-prices")
    assert limiter.settled == [Used(105, 90 * IN + 15 * OUT)]
    assert flight.in_flight() == 0


def test_the_first_end_counts(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment())
        call.saw(Tokens(prompt=1))
        call.finish(200)
        call.finish(500, "INTERNAL")
    assert [kind for kind, _ in written()] == ["S", "F"]
    assert len(limiter.settled) == 1


def test_an_answer_without_usage_is_estimated_and_says_so(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment())
        call.delivered(41)
        call.finish(200, flags=("estimated",))
    event = written()[-1][1]
    assert (event["tokens"]["prompt"], event["tokens"]["candidates"], event["flags"]) == (100, 11, ["estimated"])


@pytest.mark.parametrize("told", [Tokens(), Tokens(prompt=90), Tokens(candidates=10)])
def test_a_report_without_prompt_or_output_is_not_believed_about_it(limiter: Counter, told: Tokens) -> None:
    with begin(limiter) as call:
        call.reaching(deployment())
        call.delivered(40)
        call.saw(told)
        call.finish(200)
    event = written()[-1][1]
    assert (event["tokens"]["prompt"], event["tokens"]["candidates"]) == (told.prompt or 100, 10)
    assert event["flags"] == ["estimated"]


def test_an_answer_without_output_is_no_estimate(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment())
        call.saw(Tokens(prompt=90))
        call.finish(200)
    assert (written()[-1][1]["cost_nano"], written()[-1][1]["flags"]) == (90 * IN, [])


def test_a_refused_call_is_recorded_without_cost_and_its_hold_released(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.finish(403, "PERMISSION_DENIED", error="no")
    assert [kind for kind, _ in written()] == ["F"]
    assert written()[0][1]["cost_nano"] == 0
    assert (limiter.released, limiter.settled) == (1, [])


def test_a_call_answered_here_settles_without_tokens(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.finish(200)
    assert (limiter.released, limiter.settled) == (0, [Used(0, 0)])


def test_a_stream_the_client_left_is_charged_what_was_delivered(limiter: Counter) -> None:
    with pytest.raises(asyncio.CancelledError), begin(limiter, stream=True) as call:
        call.reaching(deployment())
        call.delivered(400)
        raise asyncio.CancelledError
    event = written()[-1][1]
    assert (event["http_status"], event["status"]) == (499, "CANCELLED")
    assert event["flags"] == ["cancelled", "estimated"]
    assert event["cost_nano"] == 100 * IN + 100 * OUT


def test_what_was_delivered_after_the_last_report_comes_on_top_of_it(limiter: Counter) -> None:
    with begin(limiter, stream=True) as call:
        call.reaching(deployment())
        call.delivered(400)
        call.saw(Tokens(prompt=90, candidates=80))
        call.delivered(40)
        call.finish(200, "UNAVAILABLE", flags=("cut",))
    event = written()[-1][1]
    assert (event["tokens"]["prompt"], event["tokens"]["candidates"]) == (90, 90)


def test_a_report_that_covers_everything_is_no_estimate_even_when_the_client_left(limiter: Counter) -> None:
    with begin(limiter, stream=True) as call:
        call.reaching(deployment())
        call.delivered(400)
        call.saw(Tokens(prompt=90, candidates=80))
        call.finish(499, "CANCELLED", flags=("cancelled",))
    event = written()[-1][1]
    assert (event["flags"], event["cost_nano"]) == (["cancelled"], 90 * IN + 80 * OUT)


def test_an_estimate_never_exceeds_what_was_held(limiter: Counter) -> None:
    with begin(limiter, stream=True, tokens=150, spend=300_000) as call:
        call.reaching(deployment())
        call.delivered(4_000)
        call.finish(499, "CANCELLED", flags=("cancelled",))
    event = written()[-1][1]
    assert event["cost_nano"] == 300_000
    assert event["tokens"]["prompt"] + event["tokens"]["candidates"] == 150


@pytest.mark.parametrize("rules", [None, (LimitRule("limit-1", "key", "key-1", "requests", "minute", 10),)])
def test_where_neither_tokens_nor_money_are_held_an_estimate_is_what_was_delivered(
    limiter: Counter, rules: tuple[LimitRule, ...] | None
) -> None:
    with flight.open(key(), action="streamGenerateContent", model="m", limiter=limiter, stream=True) as call:
        ask = Ask(call.call_id, "m", tokens=150)
        call.asked(ask, 100)
        call.admitted(Hold(call.call_id, "org-1", rules, ask, 0.0) if rules else None)
        call.reaching(deployment())
        call.delivered(4_000)
        call.finish(499, "CANCELLED", flags=("cancelled",))
    event = written()[-1][1]
    assert (event["tokens"]["prompt"], event["tokens"]["candidates"]) == (100, 1_000)
    assert event["cost_nano"] == 100 * IN + 1_000 * OUT


def test_a_unary_call_the_client_left_is_charged_as_held(limiter: Counter) -> None:
    with pytest.raises(asyncio.CancelledError), begin(limiter) as call:
        call.reaching(deployment())
        raise asyncio.CancelledError
    event = written()[-1][1]
    assert (event["cost_nano"], event["flags"]) == (5_000_000, ["cancelled", "estimated"])
    assert limiter.settled == [Used(1_000, 5_000_000)]


def test_a_unary_call_the_client_left_between_two_tries_costs_nothing(limiter: Counter) -> None:
    notes: list[Note] = []
    with begin(limiter, notes=notes) as call:
        call.reaching(deployment())
        notes.append(Note("deployment-1", "gpt-4o", "only one left", "server"))
        call.finish(499, "CANCELLED", flags=("cancelled",))
    event = written()[-1][1]
    assert (event["cost_nano"], event["attempts"][0]["outcome"]) == (0, "server")


def test_what_a_failed_try_reported_is_not_charged_for_the_next(limiter: Counter) -> None:
    with begin(limiter, stream=True) as call:
        call.reaching(deployment())
        call.saw(Tokens(prompt=90, candidates=1))
        call.reaching(deployment(id="deployment-2"))
        call.delivered(40)
        call.finish(200)
    event = written()[-1][1]
    assert (event["deployment_id"], event["tokens"]["prompt"], event["tokens"]["candidates"]) == (
        "deployment-2",
        100,
        10,
    )


def test_an_upstream_failure_costs_nothing(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment())
        call.finish(503, "UNAVAILABLE", error="down")
    assert written()[-1][1]["cost_nano"] == 0
    assert limiter.settled == [Used(0, 0)]


def test_an_unknown_price_is_marked_and_is_not_zero(limiter: Counter) -> None:
    with begin(limiter) as call:
        call.reaching(deployment(backend=Unlisted()))
        call.saw(Tokens(prompt=10, candidates=1))
        call.finish(200)
    event = written()[-1][1]
    assert (event["cost_nano"], event["flags"]) == (None, ["unpriced"])


def test_a_start_is_written_as_it_will_be_charged_if_the_process_dies(limiter: Counter) -> None:
    call = begin(limiter)
    call.reaching(deployment())
    call.reaching(deployment())
    ((kind, event),) = written()
    assert kind == "S"
    assert (event["cost_nano"], event["held_nano"], event["flags"]) == (5_000_000, 5_000_000, ["estimated", "orphaned"])
    call.finish(200)


def test_time_to_first_token_is_a_stream_s(limiter: Counter) -> None:
    for stream in (True, False):
        with begin(limiter, stream=stream) as call:
            call.reaching(deployment())
            call.delivered(4)
            call.finish(200)
    assert [event["ttft_ms"] is None for kind, event in written() if kind == "F"] == [False, True]


def test_the_event_of_an_ended_call_has_what_was_written(limiter: Counter) -> None:
    with begin(limiter, notes=[Note("d", "gpt-4o", "only one left", "ok")]) as call:
        assert call.event is None
        call.reaching(deployment())
        call.saw(Tokens(prompt=1))
        call.finish(200)
    assert call.event is not None
    assert json.loads(flight.encode(call.event)) | written()[-1][1] == json.loads(flight.encode(call.event))


def test_a_forced_stop_ends_every_running_call(limiter: Counter) -> None:
    calls = [begin(limiter) for _ in range(3)]
    calls[0].reaching(deployment())
    assert flight.in_flight() == 3
    assert flight.finish_all() == 3
    assert flight.in_flight() == 0
    assert (len(limiter.settled), limiter.released) == (1, 2)


def test_a_block_left_by_a_mistake_is_an_internal_error_with_its_record(limiter: Counter) -> None:
    with pytest.raises(ZeroDivisionError), begin(limiter):
        raise ZeroDivisionError("a mistake")
    event = written()[-1][1]
    assert (event["http_status"], event["error"]) == (500, "ZeroDivisionError: a mistake")


def test_text_that_is_no_proper_unicode_still_makes_a_record(limiter: Counter) -> None:
    with begin(limiter, label="half \ud83d a pair") as call:
        call.finish(403, "PERMISSION_DENIED")
    assert written()[0][1]["label"] == "half ? a pair"


def test_a_full_disk_refuses_the_start_and_keeps_the_end(limiter: Counter) -> None:
    call, other = begin(limiter), begin(limiter)
    call.reaching(deployment())
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - a real device that has no room
    segment = spool.current().segments[0]
    kept, segment.fd = segment.fd, full.fileno()
    with pytest.raises(spool.SpoolFull):
        other.reaching(deployment())
    assert not spool.healthy()
    other.finish(503, "UNAVAILABLE")
    call.saw(Tokens(prompt=1))
    call.finish(200)
    assert limiter.released == 1
    segment.fd = kept
    full.close()
    spool.current().tend()
    assert spool.healthy()
    assert [kind for kind, _ in written()] == ["S", "F", "F"]


def test_prices_are_asked_of_the_same_card_for_start_and_end() -> None:
    assert prices.card(deployment(id="same", version="1")) is prices.card(deployment(id="same", version="1"))
