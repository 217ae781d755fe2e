"""What a new key may use, for common cases. One table: change its words and figures to suit your house."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from keys.models import Limit, VirtualKey

Metric, Period = Limit.Metric, Limit.Period


def amount_said(metric: Limit.Metric, amount: Decimal, period: Limit.Period) -> str:
    """60 requests a minute; 5 USD a day; 4 calls at once."""
    if metric == Metric.CONCURRENT:
        return f"{amount:,f} calls at once"
    unit = "USD" if metric == Metric.SPEND else metric.label.lower()
    return f"{amount:,f} {unit} {period.label}"


@dataclass(frozen=True, slots=True)
class Preset:
    """limits: (metric, amount, period); USD for spend."""

    id: str
    label: str
    limits: tuple[tuple[Limit.Metric, Decimal, Limit.Period], ...] = ()

    def __str__(self) -> str:
        said = [amount_said(metric, amount, period) for metric, amount, period in self.limits]
        return f"{self.label}: {', '.join(said)}" if said else self.label


PRESETS: tuple[Preset, ...] = (
    Preset("none", "No limits"),
    Preset(
        "development",
        "Development",
        ((Metric.REQUESTS, Decimal(60), Period.MINUTE), (Metric.SPEND, Decimal(5), Period.DAY)),
    ),
    Preset(
        "production",
        "Production",
        ((Metric.REQUESTS, Decimal(1_000), Period.MINUTE), (Metric.SPEND, Decimal(500), Period.MONTH)),
    ),
    Preset(
        "ci",
        "CI",
        (
            (Metric.CONCURRENT, Decimal(4), Period.MINUTE),
            (Metric.REQUESTS, Decimal(300), Period.HOUR),
            (Metric.SPEND, Decimal(2), Period.DAY),
        ),
    ),
)
BY_ID = {preset.id: preset for preset in PRESETS}
CHOICES = [(preset.id, str(preset)) for preset in PRESETS]


def missing(key: VirtualKey, preset: Preset) -> list[Limit]:
    """The preset's limits as rows for this key, not saved; what its form said about the same thing goes first."""
    given = set(key.limits.values_list("metric", "period"))
    return [
        Limit(key=key, metric=metric, amount=amount, period=period)
        for metric, amount, period in preset.limits
        if (metric, period) not in given
    ]


def copied(key: VirtualKey, source: VirtualKey) -> list[Limit]:
    """The limits of another key as rows for this one, not saved."""
    given = set(key.limits.values_list("metric", "period", "pattern"))
    return [
        Limit(key=key, metric=each.metric, amount=each.amount, period=each.period, pattern=each.pattern, hard=each.hard)
        for each in source.limits.all()
        if (each.metric, each.period, each.pattern) not in given
    ]
