"""Where counters begin: with what the ledger knows. The ledger is another room's, so it hangs itself in here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from keys.context import LimitRule
from keys.limits.windows import Place

log = logging.getLogger(__name__)

# Of one organization: (rule, since which Unix second; -inf: ever) -> what was used since then, in the rule's unit.
# May raise when it cannot tell.
Rebuild = Callable[[str, Sequence[tuple[LimitRule, float]]], Awaitable[list[int]]]

PATIENCE: Final = 3.0  # seconds a call waits for it

rebuild: Rebuild | None = None


def use(hook: Rebuild | None) -> None:
    """Ask this from now on; None: counters begin at nothing."""
    global rebuild
    rebuild = hook


async def ask(organization_id: str, places: Sequence[Place], now: float) -> list[int]:
    """What was used in each place so far. Nothing, when the ledger cannot tell: calls of known keys must go on."""
    if rebuild is None or not places:
        return [0] * len(places)
    try:
        async with asyncio.timeout(PATIENCE):
            return await rebuild(organization_id, [(place.rule, place.since(now)) for place in places])
    except Exception as error:  # the database is gone, or slow: reconciliation adds what is missing
        log.warning("Counters of %d limits begin at nothing: %s", len(places), type(error).__name__)
        return [0] * len(places)
