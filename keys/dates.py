"""Dates as people read them in lists."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html


def ago(moment: datetime | None) -> str:
    """A short date: 2 min ago, 5 h ago, 3 d ago, then the date. With its full time as a tool tip."""
    if moment is None:
        return format_html('<span class="gh-quiet">{}</span>', "never")
    seconds = (timezone.now() - moment).total_seconds()
    ahead, seconds = seconds < 0, abs(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            span = f"{int(seconds // size)} {unit}"
            break
    else:
        span = "moments"
    text = (f"in {span}" if ahead else f"{span} ago") if seconds < 60 * 86400 else f"{moment:%Y-%m-%d}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), f"{moment:%Y-%m-%d %H:%M} UTC", text
    )
