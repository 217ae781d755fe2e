"""What runs beside the calls: opened when the process starts, closed in reverse when it is told to stop.

uvicorn stops accepting, waits for calls up to the drain deadline, then ends the lifespan here. Calls still under way
are finished from their registry, because on a forced stop no `finally` of theirs runs any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError, connection
from django.urls import get_resolver

from gemini_api import tokens
from keys import limits, lookup, notices, reminders
from lib import bus, memory, metrics
from lib.store import store
from routing import loading, scores_memory, scores_redis, upstream
from routing.catalog import DeploymentEntry
from usage import alerts, body_store, counters, flight, ledger, prices, spool, upkeep

logger = logging.getLogger("gatehouse")

Step = Callable[[], Awaitable[Any]]
_open = False


async def nothing() -> None:
    return None


async def open_bus() -> None:
    await bus.open(settings.REDIS_URL, notices.versions)


async def open_store() -> None:
    await store.open(settings.REDIS_URL, settings.GATEHOUSE.store_timeout)


async def open_router() -> None:
    scores_memory.board.price_of = reference_price
    scores_memory.board.open_first = settings.GATEHOUSE.breaker_seconds
    await scores_redis.open()


def reference_price(deployment: DeploymentEntry) -> int | None:
    """Nano-dollars of a thousand tokens asked and five hundred answered: what "cheapest" compares by."""
    card = prices.card(deployment)
    return card.worst(1000, 500) if card else None


async def warm_up() -> None:
    """What the first call would otherwise load while everybody waits: addresses with their views, and prices."""

    def load() -> None:
        _ = get_resolver().url_patterns
        for deployment in loading.current().deployments.values():
            prices.card(deployment)

    await asyncio.to_thread(load)


# In the order they need each other.
PARTS: list[tuple[str, Step, Step]] = [
    ("tokens", tokens.warm_up, nothing),
    ("bus", open_bus, bus.close),
    ("store", open_store, store.close),
    ("keys", lookup.open, lookup.close),
    ("prices", prices.open, prices.close),
    ("catalog", loading.open, loading.close),
    ("ledger", ledger.open, ledger.close),
    ("bodies", body_store.open, body_store.close),
    ("upkeep", upkeep.open, upkeep.close),
    ("reminders", reminders.open, reminders.close),
    ("router", open_router, scores_redis.close),
    ("limits", limits.open, limits.close),
    ("counters", counters.open, counters.close),
    ("alerts", alerts.open, alerts.close),
    ("upstream", upstream.open, upstream.close),
    ("first call", warm_up, nothing),
]


async def run(receive: Any, send: Any) -> None:
    """The ASGI lifespan protocol."""
    await receive()
    try:
        await start()
    except Exception as error:
        logger.exception("Gatehouse could not start")
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await stop()
    await send({"type": "lifespan.shutdown.complete"})


async def start() -> None:
    global _open
    metrics.measure(
        flight.in_flight,
        lambda: spool.current().waiting_bytes(),
        lambda: not settings.REDIS_URL or store.available,
        lambda: ledger.ledger.failures == 0,
    )
    for name, step, _ in PARTS:
        try:
            await step()
        except Exception as error:
            raise RuntimeError(f"{name}: {error}") from error
    memory.settle()
    _open = True


async def stop() -> None:
    global _open
    _open = False
    if left := flight.finish_all():
        logger.warning("%s calls were still running and were ended", left)
    for name, _, step in reversed(PARTS):
        try:
            await step()
        except Exception:
            logger.exception("%s did not close properly", name)


async def checks() -> dict[str, str]:
    """A word for each part: ok, degraded, not used, or what is wrong."""
    return {
        "process": "ok" if _open else "stopping",
        "database": await database(),
        "store": ("ok" if store.available else "degraded") if settings.REDIS_URL else "not used",
        "spool": "ok" if spool.healthy() else "full",
        "catalog": "ok" if loading.current().deployments else "degraded",
    }


async def database() -> str:

    def ask() -> str:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            return "ok"
        except DatabaseError:
            # Known keys are still served: calls may come.
            return "degraded"
        finally:
            connection.close()

    return await sync_to_async(ask, thread_sensitive=False)()
