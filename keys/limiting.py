"""Set limits on organizations, teams and keys from a shell: what the commands share.

A limit that stays (same metric, period and pattern) keeps its id, and so what was used of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from django.db import transaction

from keys import audit, notices
from keys.audit import Actor
from keys.models import Limit, Organization, Team, VirtualKey

Subject = Organization | Team | VirtualKey

LARGEST_SPEND: Final = Decimal(9_000_000)  # USD: in nano-dollars Lua still counts it exactly
LARGEST: Final = Decimal(9_000_000_000)
FORM: Final = "METRIC:PERIOD:AMOUNT[:MODELS], such as spend:month:50.00 or requests:minute:60:gemini-*"


class LimitError(ValueError):
    """This is no limit. The message says what would be."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A limit as somebody asked for it. amount: USD for spend, a whole number for the rest; None: no such limit."""

    metric: str
    period: str
    amount: Decimal | None
    pattern: str = "*"
    hard: bool = True


def parse(text: str, *, hard: bool = True) -> Wanted:
    """`spend:month:50.00:gemini-*`, `concurrent:5`, `spend:month:none`. Raises LimitError."""
    metric, _, rest = text.partition(":")
    if metric == Limit.Metric.CONCURRENT:
        rest = f"{Limit.Period.MINUTE}:{rest}"
    period, _, rest = rest.partition(":")
    amount, _, pattern = rest.partition(":")
    if metric not in Limit.Metric.values:
        raise LimitError(f"'{metric}' is not a metric; say {', '.join(Limit.Metric.values)}. A limit is {FORM}.")
    if period not in Limit.Period.values:
        raise LimitError(f"'{period}' is not a period; say {', '.join(Limit.Period.values)}. A limit is {FORM}.")
    if not amount:
        raise LimitError(f"'{text}' has no amount. A limit is {FORM}.")
    return Wanted(metric, period, None if amount == "none" else _amount(metric, amount), pattern or "*", hard)


def _amount(metric: str, text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise LimitError(f"'{text}' is not an amount.") from None
    largest = LARGEST_SPEND if metric == Limit.Metric.SPEND else LARGEST
    if not amount.is_finite() or not 0 <= amount <= largest:
        raise LimitError(f"The amount must lie between 0 and {largest:,}.")
    if metric == Limit.Metric.SPEND:
        if amount != round(amount, 9):
            raise LimitError("Spend is counted in nano-dollars: nine decimals at most.")
    elif amount != amount.to_integral_value():
        raise LimitError("Only spend has decimals; give a whole number.")
    return amount


def put(subject: Subject, wanted: Wanted, actor: Actor = audit.SYSTEM) -> Limit | None:
    """Create, change or (amount None) remove one limit; audited and announced. Answers the limit, None when removed."""
    place = {_place(subject): subject}
    with transaction.atomic():
        notices.lock()
        limit = Limit.objects.filter(
            **place, metric=wanted.metric, period=wanted.period, pattern=wanted.pattern
        ).first()
        before = _told(limit)
        if wanted.amount is None:
            if limit is None:
                raise LimitError(f"There is no such limit on {subject}.")
            limit.delete()
            limit = None
        else:
            limit = limit or Limit(**place, metric=wanted.metric, period=wanted.period, pattern=wanted.pattern)
            limit.amount, limit.hard = wanted.amount, wanted.hard
            limit.full_clean()
            limit.save()
            limit.refresh_from_db()
        after = _told(limit)
        if before != after:
            organization = subject if isinstance(subject, Organization) else subject.organization
            audit.record(actor, "limit.set", subject, {"limit": [before, after]}, organization.pk)
            notices.announce("keys", str(subject.pk) if isinstance(subject, VirtualKey) else "")
    return limit


def _place(subject: Subject) -> str:
    return {Organization: "organization", Team: "team", VirtualKey: "key"}[type(subject)]


def _told(limit: Limit | None) -> str | None:
    return f"{limit} for {limit.pattern}, {'hard' if limit.hard else 'soft'}" if limit else None
