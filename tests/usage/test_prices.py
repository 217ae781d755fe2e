"""Rate cards: which one holds, and what it makes of tokens, to the nano-dollar."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from asgiref.sync import sync_to_async
from genai_prices import Usage, calc_price

from lib import bus
from tests.usage.events import Priced, Unlisted, deployment
from usage import prices
from usage.event import Tokens
from usage.models import PriceOverride

NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Google(Priced):
    price_provider = "google"


class Anthropic(Priced):
    price_provider = "anthropic"


def card(backend: Priced, model: str) -> prices.RateCard:
    found = prices.card(deployment(backend=backend, upstream_model=model), NOW)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("backend", "model", "tokens", "nano"),
    [
        (Priced(), "gpt-4o", Tokens(prompt=1000, candidates=100), 2_500_000 + 1_000_000),
        (Priced(), "gpt-4o", Tokens(prompt=1000, cached=400, candidates=0), 600 * 2500 + 400 * 1250),
        (Google(), "gemini-2.5-flash", Tokens(prompt=10, tool_use=5, candidates=1, thoughts=2), 15 * 300 + 3 * 2500),
        (Google(), "gemini-2.5-flash", Tokens(prompt=100, audio_prompt=40), 60 * 300 + 40 * 1000),
        (Google(), "gemini-2.5-flash", Tokens(prompt=100, cached=80, audio_prompt=40), 80 * 30 + 20 * 1000),
        (Google(), "gemini-2.5-flash-image", Tokens(candidates=1300, image_output=1290), 10 * 2500 + 1290 * 30_000),
        (Google(), "models/gemini-2.5-flash", Tokens(prompt=1), 300),
        (
            Anthropic(),
            "claude-sonnet-4-5",
            Tokens(prompt=100, cache_write=60, cached=30),
            10 * 3000 + 60 * 3750 + 30 * 300,
        ),
    ],
)
def test_every_class_of_token_has_its_price(backend: Priced, model: str, tokens: Tokens, nano: int) -> None:
    assert card(backend, model).cost(tokens) == nano


@pytest.mark.parametrize(("prompt", "rate"), [(200_000, 1_250), (200_001, 2_500)])
def test_a_long_prompt_is_priced_anew_from_its_first_token(prompt: int, rate: int) -> None:
    assert card(Google(), "gemini-2.5-pro").cost(Tokens(prompt=prompt)) == prompt * rate


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-5", "o3"])
@pytest.mark.parametrize("prompt", [1, 12_345, 250_000])
def test_costs_agree_with_the_table_they_come_from(model: str, prompt: int) -> None:
    usage = Usage(input_tokens=prompt, cache_read_tokens=prompt // 3, output_tokens=777)
    theirs = calc_price(usage, model, provider_id="openai", genai_request_timestamp=NOW).total_price
    ours = card(Priced(), model).cost(Tokens(prompt=prompt, cached=prompt // 3, candidates=700, thoughts=77))
    assert Decimal(ours) == (theirs * 10**9).to_integral_value(rounding="ROUND_HALF_UP")


def test_an_unknown_price_is_none_and_not_zero() -> None:
    assert prices.card(deployment(upstream_model="no-such-model")) is None
    assert prices.card(deployment(backend=Unlisted())) is None


def test_the_base_model_decides_when_the_upstream_name_says_nothing() -> None:
    found = prices.card(deployment(upstream_model="prod-chat-2", base_model="gpt-4o"))
    assert found is not None
    assert found.version.endswith("openai/gpt-4o")


@pytest.mark.parametrize(
    "tokens",
    [
        Tokens(prompt=1000, candidates=500),
        Tokens(prompt=1000, cache_write=1000, candidates=500),
        Tokens(prompt=1000, audio_prompt=1000, thoughts=500),
        Tokens(prompt=500, tool_use=500, candidates=500, audio_output=500),
    ],
)
@pytest.mark.parametrize(
    ("backend", "model"),
    [
        (Priced(), "gpt-4o"),
        (Google(), "gemini-2.5-flash"),
        (Google(), "gemini-2.5-flash-image"),
        (Anthropic(), "claude-sonnet-4-5"),
    ],
)
def test_no_call_costs_more_than_its_worst_case(backend: Priced, model: str, tokens: Tokens) -> None:
    found = card(backend, model)
    assert found.cost(tokens) <= found.worst(1000, 500)


def test_the_worst_case_counts_the_long_tier_when_the_estimate_comes_near_it() -> None:
    found = card(Google(), "gemini-2.5-pro")
    assert found.worst(120_000, 0) == 120_000 * 2_500
    assert found.worst(90_000, 0) == 90_000 * 1_250


@pytest.mark.django_db
class TestOverrides:
    @pytest.fixture(autouse=True)
    def forget(self) -> object:
        yield
        prices._overrides = {}
        prices._cards.clear()

    def override(self, **given: object) -> PriceOverride:
        values = {"deployment_id": "deployment-1", "valid_from": NOW, "input": Decimal(1), "output": Decimal(2)}
        row = PriceOverride.objects.create(**(values | given))
        prices.load()
        return row

    def test_an_override_wins_over_the_table_from_its_date_on(self) -> None:
        self.override()
        before = prices.card(deployment(), datetime(2026, 11, 24, 23, 59, tzinfo=UTC))
        after = prices.card(deployment(), NOW)
        assert before is not None and after is not None
        assert before.version.startswith("genai-prices")
        assert after.version.startswith("override 2026-11-25T00:00:00Z ")
        assert after.cost(Tokens(prompt=10, cached=5, candidates=1, thoughts=1)) == 10 * 1000 + 2 * 2000

    def test_the_newest_valid_override_holds(self) -> None:
        self.override(valid_from=datetime(2026, 1, 1, tzinfo=UTC), input=Decimal(5))
        self.override(valid_from=datetime(2026, 6, 1, tzinfo=UTC), input=Decimal(6))
        self.override(valid_from=datetime(2999, 1, 1, tzinfo=UTC), input=Decimal(7))
        found = prices.card(deployment())
        assert found is not None
        assert found.cost(Tokens(prompt=1)) == 6000

    def test_an_override_prices_what_no_table_knows_and_no_other_deployment(self) -> None:
        self.override()
        assert prices.card(deployment(backend=Unlisted())) is not None
        assert prices.card(deployment(id="deployment-2", backend=Unlisted())) is None

    def test_an_override_has_a_long_tier_and_its_own_classes(self) -> None:
        self.override(
            thoughts=Decimal(3),
            cached_input=Decimal("0.1"),
            long_context_from=100,
            long_input=Decimal(10),
            long_output=Decimal(20),
        )
        found = prices.card(deployment())
        assert found is not None
        assert found.cost(Tokens(prompt=100, cached=50, candidates=1, thoughts=1)) == 50 * 1000 + 50 * 100 + 2000 + 3000
        assert found.cost(Tokens(prompt=101, candidates=1, thoughts=1)) == 101 * 10_000 + 40_000

    def test_fractions_of_a_nano_dollar_are_kept_until_the_end(self) -> None:
        self.override(input=Decimal("0.000001"), output=Decimal(0))
        found = prices.card(deployment())
        assert found is not None
        assert [found.cost(Tokens(prompt=n)) for n in (499, 500, 1500)] == [0, 1, 2]

    def test_a_changed_override_is_another_price_version(self) -> None:
        row = self.override()
        first = prices.card(deployment(), NOW)
        row.input = Decimal(9)
        row.save()
        prices.load()
        second = prices.card(deployment(), NOW)
        assert first is not None and second is not None
        assert first.version != second.version


@pytest.mark.django_db(transaction=True)
async def test_a_notice_brings_a_new_override_into_a_running_process() -> None:
    await prices.open()
    try:
        await sync_to_async(PriceOverride.objects.create)(
            deployment_id="noticed", valid_from=NOW, input=Decimal(1), output=Decimal(1)
        )
        place = deployment(id="noticed", backend=Unlisted())
        assert prices.card(place) is None
        bus.publish_sync("catalog")
        async with asyncio.timeout(10):
            while prices.card(place) is None:  # noqa: ASYNC110 - there is no event to wait for, only a row or a price
                await asyncio.sleep(0.01)
    finally:
        await prices.close()
        prices._overrides = {}
