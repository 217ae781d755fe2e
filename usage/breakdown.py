"""One record's cost, class by class, by the rates it was priced with."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from routing.backends import BACKENDS
from usage import prices, records
from usage.event import Tokens
from usage.models import RequestRecord

FEMTO_PER_NANO = 10**6
LABELS = {  # of prices.Classes, in the order of the page
    "input": "Input",
    "cached": "Input from the cache",
    "cache_write": "Input written to the cache",
    "audio_input": "Input, audio",
    "image_input": "Input, images",
    "output": "Output",
    "thoughts": "Thoughts",
    "audio_output": "Output, audio",
    "image_output": "Output, images",
}


@dataclass(frozen=True, slots=True)
class Line:
    """Tokens of one class. usd: per million tokens; nano: nano-dollars, rounded. None while the rates are not known."""

    label: str
    tokens: int
    usd: Decimal | None
    nano: int | None


def lines(record: RequestRecord) -> list[Line]:
    """Every class that has tokens; each token stands in one line (prices.Classes)."""
    tokens = Tokens(**{name: getattr(record, column) for column, name in records.TOKENS.items()})
    rates = rates_of(record, tokens)
    found = []
    counts = prices.classes(tokens)
    for name, label in LABELS.items():
        if not (count := getattr(counts, name)):
            continue
        rate = getattr(rates, name) if rates else None
        found.append(
            Line(
                label,
                count,
                Decimal(rate) / prices.NANO if rate is not None else None,
                round(count * rate / FEMTO_PER_NANO) if rate is not None else None,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """What one class is of the whole cost. width: percent."""

    label: str
    nano: int
    width: float


def parts(found: list[Line]) -> list[Part]:
    """The classes that cost something, for a bar; none when it would be a bar of one colour."""
    priced = [(line.label, line.nano) for line in found if line.nano]
    whole = sum(nano for _label, nano in priced)
    return [Part(label, nano, 100 * nano / whole) for label, nano in priced] if len(priced) > 1 else []


def rates_of(record: RequestRecord, tokens: Tokens) -> prices.Rates | None:
    """The rates the record was priced with; None when they are not those known now, by name."""
    backend = BACKENDS.get(record.backend)
    provider = backend.price_provider if backend else ""
    card = prices.resolve(record.deployment_id, provider, record.upstream_model, record.started_at.timestamp())
    if card is None or card.version != record.price_version:
        return None
    return card.rates(tokens.prompt + tokens.tool_use)
