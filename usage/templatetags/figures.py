"""Filters for templates: figures as people read them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import template

from keys.dates import ago
from usage import figures

register = template.Library()
register.filter("compact", figures.compact)
register.filter("dollars", figures.dollars)
register.filter("ago", ago)


@register.filter
def duration(milliseconds: float | None) -> str:
    """As figures.duration; what a template does not find is no time."""
    return figures.duration(milliseconds if isinstance(milliseconds, int | float) else None)


@register.filter
def share(part: float | None) -> str:
    """0.023 as 2.3 %."""
    return "–" if not isinstance(part, int | float) else figures.percent(part, 1)


@register.filter
def rate(usd: Decimal) -> str:
    """USD per million tokens: 0.15, 3.00, 0.075."""
    shortest = usd.normalize()
    return f"{shortest:f}" if shortest.as_tuple().exponent < -2 else f"{shortest:.2f}"  # type: ignore[operator]  # a number


@register.filter
def state_kind(http_status: int) -> str:
    """The colour class of an HTTP status."""
    if http_status < 400:
        return "gh-ok"
    return "gh-late" if http_status in (429, 499) else "gh-failed"


@register.filter
def with_filter(filters: Any, name: str) -> str:
    """The state of a page as a query string that ends in `name=`, to be completed with a value."""
    rest = filters.query(**{name: ""})
    return f"{rest}&{name}=" if rest else f"{name}="
