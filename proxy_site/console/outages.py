"""What is down right now, as this process knows it: sentences for the head of every page of the admin."""

from __future__ import annotations

from lib.store import store
from usage import spool
from usage.ledger import ledger

REDIS = (
    "Redis is out of reach: limits go on by each process's own share, keys with the outage policy deny are refused. "
    "Counters are compared with the ledger when it is back."
)
DATABASE = "The database takes no usage records: they wait in files and are brought in as soon as it does."
DISK = "The disk is full: calls are refused, because their usage could not be kept."


def now() -> list[str]:
    known = {
        REDIS: bool(store.url) and not store.available,
        DATABASE: ledger.failures > 0,
        DISK: spool.full(),
    }
    return [sentence for sentence, holds in known.items() if holds]
