"""Limits as people read them: 60 requests a minute, $20 a month for gemini-*."""

from __future__ import annotations

from keys.context import LimitRule
from usage import figures

UNITS = {"requests": "requests", "tokens": "tokens", "concurrent": "calls at once", "spend": ""}
PERIODS = {
    "minute": "a minute",
    "hour": "an hour",
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "lifetime": "in its lifetime",
}


def amount(metric: str, value: int) -> str:
    """A quantity of a metric: nano-dollars for spend, whole units else."""
    return figures.dollars(value) if metric == "spend" else figures.compact(value)


def words(rule: LimitRule) -> str:
    """The whole limit."""
    said = f"{amount(rule.metric, rule.amount)} {UNITS[rule.metric]}".strip()
    if rule.metric != "concurrent":
        said += f" {PERIODS[rule.period]}"
    if rule.pattern != "*":
        said += f" for {rule.pattern}"
    return said if rule.hard else f"{said} (warns only)"
