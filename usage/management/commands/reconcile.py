"""manage.py reconcile: counters of limits beside the ledger, and their repair."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys import reading
from keys.limits import seeding
from keys.limits.redis import RedisLimiter
from lib.store import Store, StoreDown
from usage import counters, prices
from usage.counters import Comparison


class Command(BaseCommand):
    help = "Compare the counters of limits with the ledger; with --repair, make them agree."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", metavar="SLUG", default="", help="Not given: every one.")
        parser.add_argument("--repair", action="store_true", help="Correct counters that differ.")
        parser.add_argument("--json", action="store_true", help="Print a JSON array.")
        parser.add_argument("--lag", type=float, default=counters.LAG, help="Seconds until an ended call is recorded.")

    def handle(self, **options: Any) -> None:
        if not settings.REDIS_URL:
            raise CommandError(
                "Without Redis every process counts in its own memory and begins with what the ledger knows: "
                "restart it to reconcile."
            )
        limited = reading.limited(options["organization"])
        found = asyncio.run(_compare(limited, options["repair"], options["lag"]))
        if options["json"]:
            self.stdout.write(json.dumps([_row(each, options["repair"]) for each in found]))
            return
        for each in found:
            self.stdout.write(_line(each, options["repair"]))
        drifted = sum(bool(each.drift) for each in found)
        said = "corrected" if options["repair"] else "differ; --repair corrects them"
        self.stdout.write(f"{len(found)} counters, {drifted} {said}." if drifted else f"{len(found)} counters agree.")


async def _compare(limited: list[reading.Limited], repair: bool, lag: float) -> list[Comparison]:
    store = Store()
    await store.open(settings.REDIS_URL)
    seeding.use(counters.rebuild)
    try:
        limiter = RedisLimiter(store)
        found = [counters.compare(limiter, each, lag=lag, repair=repair) for each in limited]
        return [each for organization in await asyncio.gather(*found) for each in organization]
    except StoreDown as error:
        raise CommandError("Redis is out of reach: there are no counters to compare.") from error
    finally:
        seeding.use(None)
        await store.close()


def _row(each: Comparison, repaired: bool) -> dict[str, Any]:
    rule = each.rule
    return {
        "organization": each.organization, "limit": rule.id, "subject": rule.subject, "subject_id": rule.subject_id,
        "metric": rule.metric, "period": rule.period, "period_name": each.period, "models": rule.pattern,
        "amount": rule.amount, "used": each.used, "held": each.held, "ledger": each.ledger, "drift": each.drift,
        "repaired": repaired and each.drift != 0,
    }  # fmt: skip


def _line(each: Comparison, repaired: bool) -> str:
    rule = each.rule
    period = "lifetime" if each.period == "-" else f"{rule.period} {each.period}"
    told = "agrees" if not each.drift else f"{'was' if repaired else 'is'} off by {_amount(rule.metric, each.drift)}"
    return (
        f"{each.organization}  {rule.subject} {rule.subject_id}  {rule.metric} per {period} for {rule.pattern}: "
        f"counter {_amount(rule.metric, each.used)}, held {_amount(rule.metric, each.held)}, "
        f"ledger {_amount(rule.metric, each.ledger)}: {told}"
    )


def _amount(metric: str, value: int) -> str:
    return f"{prices.usd(value):f} USD" if metric == "spend" else str(value)
