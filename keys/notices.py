"""Tell every process that something they keep in memory has changed.

A change raises its topic's ChangeVersion in the same transaction and is published on the bus after the commit.
The bus is quick; the version, polled by every process, is what cannot get lost.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from django.db import transaction
from django.db.models import F

from keys.models import ChangeVersion
from lib import bus
from lib.database import own_connection

AUDIT: Final = "audit"  # no topic: its row remembers the head of the audit chain
ROWS: Final = (AUDIT, "catalog", "keys")


def lock() -> None:
    """Let one changing transaction run at a time. Inside a transaction; again is harmless.

    One lock for notices and the audit chain, taken before the rows themselves: whoever changes several things
    in any order cannot meet another one half-way.
    """
    rows = ChangeVersion.objects.select_for_update().filter(topic__in=ROWS).order_by("topic")
    if len(rows) < len(ROWS):
        ChangeVersion.objects.bulk_create([ChangeVersion(topic=topic) for topic in ROWS], ignore_conflicts=True)
        list(ChangeVersion.objects.select_for_update().filter(topic__in=ROWS).order_by("topic"))


def announce(topic: str, subject: str = "") -> None:
    """Rows of a topic ("keys", "catalog") changed. subject: the id of what changed, as text; empty: anything may have.

    For "keys" the subject is a key's id. Call it after the change, in its transaction.
    """
    with transaction.atomic():
        lock()
        ChangeVersion.objects.filter(topic=topic).update(version=F("version") + 1)
        version = ChangeVersion.objects.values_list("version", flat=True).get(topic=topic)
        transaction.on_commit(partial(bus.publish_sync, topic, subject, version))


def versions() -> dict[str, int]:
    """The version of every topic: what the bus polls, from a thread of its own. Returns its connection."""
    with own_connection():
        return dict(ChangeVersion.objects.exclude(topic=AUDIT).values_list("topic", "version"))
