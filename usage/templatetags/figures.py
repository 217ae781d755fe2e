"""Filters for templates: figures as people read them."""

from __future__ import annotations

from django import template

from keys.dates import ago
from usage import figures

register = template.Library()
register.filter("compact", figures.compact)
register.filter("dollars", figures.dollars)
register.filter("duration", figures.duration)
register.filter("ago", ago)


@register.filter
def state_kind(http_status: int) -> str:
    """The colour class of an HTTP status."""
    if http_status < 400:
        return "gh-ok"
    return "gh-late" if http_status in (429, 499) else "gh-failed"
