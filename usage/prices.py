"""What tokens cost. Whole nano-dollars (10^-9 USD) outside, whole femto-dollars (10^-15) per token inside, never float.

A deployment's rates are, in this order: the PriceOverride row that is valid at the time of the call, the entry of
genai-prices for the backend's provider and the deployment's base (or upstream) model, or nothing: then the price is
unknown, which is not the same as free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from operator import mul
from typing import Any, NamedTuple
from zlib import crc32

import genai_prices
from django.db import connection
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import TieredPrices

from lib import bus
from lib.background import Following
from routing.catalog import DeploymentEntry
from usage.event import Tokens
from usage.models import PriceOverride

NANO = 10**9
_FEMTO_PER_NANO = 10**6
_QUARTER = 900  # seconds a resolved price is kept: some vendors price by time of day
RETRY = 5.0  # seconds
_SURE = 2  # an estimated prompt this many times below a long-context tier will not reach it


class Classes(NamedTuple):
    """Tokens of one call by what they are charged as; every token stands in one class."""

    input: int
    cached: int
    cache_write: int
    output: int
    thoughts: int
    audio_input: int
    image_input: int
    audio_output: int
    image_output: int


def classes(tokens: Tokens) -> Classes:
    """Cached ones are taken for text, unless there are more of them than text."""
    audio, image = tokens.audio_prompt, tokens.image_prompt
    text = tokens.prompt + tokens.tool_use - tokens.cached - tokens.cache_write - audio - image
    if text < 0:
        cached_audio = min(audio, -text)
        audio -= cached_audio
        image -= min(image, -text - cached_audio)
        text = 0
    spoken, drawn = tokens.audio_output, tokens.image_output
    visible = max(tokens.candidates - spoken - drawn, 0)
    return Classes(text, tokens.cached, tokens.cache_write, visible, tokens.thoughts, audio, image, spoken, drawn)


class Rates(Classes):
    """Femto-dollars per token, by the same classes."""

    __slots__ = ()

    def femto(self, tokens: Tokens) -> int:
        return sum(map(mul, classes(tokens), self))

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cached, self.cache_write, self.audio_input, self.image_input)

    @property
    def dearest_output(self) -> int:
        return max(self.output, self.thoughts, self.audio_output, self.image_output)


@dataclass(frozen=True, slots=True)
class RateCard:
    """The rates of one deployment at one time. `version` says where they come from, on every record.

    tiers: (prompt tokens, rates), rising: a prompt above that many tokens has all its tokens charged at those rates.
    """

    version: str
    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()

    def rates(self, prompt: int) -> Rates:
        chosen = self.base
        for start, rates in self.tiers:
            if prompt > start:
                chosen = rates
        return chosen

    def cost(self, tokens: Tokens) -> int:
        """Nano-dollars, rounded half up once per call."""
        femto = self.rates(tokens.prompt + tokens.tool_use).femto(tokens)
        return (femto + _FEMTO_PER_NANO // 2) // _FEMTO_PER_NANO

    def worst(self, prompt: int, output: int) -> int:
        """Nano-dollars no call with that prompt and at most that output can exceed: every token in its dearest class.

        `prompt` may be an estimate: a tier counts from half its bound on.
        """
        femto = prompt * self.base.dearest_input + output * self.base.dearest_output
        for start, rates in self.tiers:
            if prompt * _SURE > start:
                femto = max(femto, prompt * rates.dearest_input + output * rates.dearest_output)
        return -(-femto // _FEMTO_PER_NANO)


def femto(usd_per_million: Decimal) -> int:
    """USD per million tokens -> femto-dollars per token. Exact for nine decimals."""
    return int((usd_per_million * NANO).to_integral_value(ROUND_HALF_UP))


def usd(nano: int) -> Decimal:
    """Nano-dollars -> USD, exact."""
    return Decimal(nano).scaleb(-9)


def card(deployment: DeploymentEntry, at: datetime | None = None) -> RateCard | None:
    """The rates of a deployment, now or at a time; None when its price is not known. Microseconds when it was asked before."""
    if at is not None:
        return _resolve(deployment, at.timestamp())
    now = time.time()
    known = _cards.get(deployment.id)
    if known is not None and known[0] == deployment.version and now < known[1]:
        return known[2]
    found = _resolve(deployment, now)
    _cards[deployment.id] = (deployment.version, _until(deployment.id, now), found)
    return found


_cards: dict[str, tuple[str, float, RateCard | None]] = {}
_overrides: dict[str, list[tuple[float, RateCard]]] = {}  # by deployment, newest first


def _until(deployment_id: str, now: float) -> float:
    ahead = [start for start, _ in _overrides.get(deployment_id, ()) if start > now]
    return min([(now // _QUARTER + 1) * _QUARTER, *ahead])


def _resolve(deployment: DeploymentEntry, at: float) -> RateCard | None:
    return resolve(
        deployment.id, deployment.backend.price_provider, deployment.base_model or deployment.upstream_model, at
    )


def resolve(deployment_id: str, provider: str, model: str, at: float) -> RateCard | None:
    """The rates by names alone, for records whose deployment may be gone. `at`: Unix seconds."""
    for start, override in _overrides.get(deployment_id, ()):
        if start <= at:
            return override
    return _built_in(provider, model, int(at // _QUARTER)) if provider and model else None


@lru_cache(maxsize=4096)
def _built_in(provider: str, model: str, quarter: int) -> RateCard | None:
    for name in dict.fromkeys((model, model.rpartition("/")[2])):  # "publishers/google/models/x" is listed as "x"
        try:
            found_provider, found = get_snapshot().find_provider_model(name, None, provider, None)
        except LookupError:
            continue
        prices = found.get_prices(datetime.fromtimestamp(quarter * _QUARTER, UTC))
        version = f"genai-prices {genai_prices.__version__} {found_provider.id}/{found.id}"
        return _from_table(prices, version[:80])
    return None


def _from_table(prices: Any, version: str) -> RateCard | None:
    """A genai-prices ModelPrice as a card. A model without token prices (images by the piece, audio by the hour): None."""
    if prices.input_mtok is None:
        return None
    names = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok",
             "input_audio_mtok", "input_image_mtok", "output_audio_mtok", "output_image_mtok")  # fmt: skip
    values = [getattr(prices, name) for name in names]
    starts = sorted({tier.start for value in values if isinstance(value, TieredPrices) for tier in value.tiers})
    return RateCard(
        version=version,
        base=_rates(*(_at(value, 0) for value in values)),
        tiers=tuple((start, _rates(*(_at(value, start + 1) for value in values))) for start in starts),
    )


def _at(price: Decimal | TieredPrices | None, prompt: int) -> Decimal | None:
    if not isinstance(price, TieredPrices):
        return price
    found = price.base
    for tier in price.tiers:
        if prompt > tier.start:
            found = tier.price
    return found


def _rates(
    input_: Decimal | None,
    cached: Decimal | None,
    cache_write: Decimal | None,
    output: Decimal | None,
    thoughts: Decimal | None,
    audio_input: Decimal | None,
    image_input: Decimal | None,
    audio_output: Decimal | None,
    image_output: Decimal | None,
) -> Rates:
    """USD per million tokens. A class without its own price costs what its parent costs."""
    plain_in, plain_out = femto(input_ or Decimal(0)), femto(output or Decimal(0))

    def own(price: Decimal | None, parent: int) -> int:
        return parent if price is None else femto(price)

    return Rates(
        input=plain_in,
        cached=own(cached, plain_in),
        cache_write=own(cache_write, plain_in),
        output=plain_out,
        thoughts=own(thoughts, plain_out),
        audio_input=own(audio_input, plain_in),
        image_input=own(image_input, plain_in),
        audio_output=own(audio_output, plain_out),
        image_output=own(image_output, plain_out),
    )


def from_override(row: PriceOverride) -> RateCard:
    base = (
        row.input, row.cached_input, row.cache_write, row.output, row.thoughts,
        row.audio_input, row.image_input, row.audio_output, row.image_output,
    )  # fmt: skip
    tiers: tuple[tuple[int, Rates], ...] = ()
    if row.long_context_from is not None:
        long_input = row.input if row.long_input is None else row.long_input
        long = (
            long_input,
            row.cached_input if row.long_cached_input is None else row.long_cached_input,
            row.cache_write,
            row.output if row.long_output is None else row.long_output,
            row.thoughts if row.long_output is None else None,
            row.audio_input, row.image_input, row.audio_output, row.image_output,
        )  # fmt: skip
        tiers = ((row.long_context_from, _rates(*long)),)
    rates = _rates(*base)
    version = f"override {row.valid_from:%Y-%m-%dT%H:%M:%SZ} {crc32(repr((rates, tiers)).encode()):08x}"
    return RateCard(version, rates, tiers)


def load() -> None:
    """Read the overrides (synchronous ORM: not on the event loop) and swap them in."""
    global _overrides
    found: dict[str, list[tuple[float, RateCard]]] = {}
    for row in PriceOverride.objects.order_by("-valid_from"):
        found.setdefault(row.deployment_id, []).append((row.valid_from.timestamp(), from_override(row)))
    _overrides = found
    _cards.clear()


def _load_and_hang_up() -> None:
    try:
        load()
    finally:
        connection.close()


async def reload() -> None:
    """As `load`, from the event loop."""
    await asyncio.to_thread(_load_and_hang_up)


_following = Following("usage.prices", reload, again=RETRY)
_unsubscribe: Callable[[], None] | None = None


async def open() -> None:
    """Read the overrides, then follow the notices. Unreadable ones stop the start: a wrong price is worse."""
    global _unsubscribe
    _unsubscribe = bus.subscribe("catalog", _following.notice)
    try:
        await reload()
    except BaseException:
        _deaf()
        raise
    await _following.open()


def _deaf() -> None:
    global _unsubscribe
    if _unsubscribe is not None:
        _unsubscribe()
        _unsubscribe = None


async def close() -> None:
    _deaf()
    await _following.close()
    _cards.clear()
