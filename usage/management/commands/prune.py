"""manage.py prune: delete what is older than the settings allow. The server does the same once a day."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage import partitions, upkeep


class Command(BaseCommand):
    help = "Delete records, minute roll-ups, bodies, audit events and sessions that are older than the settings allow."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Say what would go, and leave it.")
        parser.add_argument("--json", action="store_true")

    def handle(self, *, dry_run: bool, json: bool, **options: Any) -> None:
        with upkeep.alone() as mine:
            if not mine:
                raise CommandError("Another process is pruning right now. Nothing was done.")
            if not dry_run:
                partitions.make_ahead(datetime.now(UTC))
            pruned = upkeep.prune(dry_run=dry_run)
        self.stdout.write(_as_json(pruned, dry_run) if json else _as_text(pruned, dry_run))


def _as_json(pruned: upkeep.Pruned, dry_run: bool) -> str:
    return json.dumps({"dry_run": dry_run, **dataclasses.asdict(pruned)})


def _as_text(pruned: upkeep.Pruned, dry_run: bool) -> str:
    dropped = ", ".join(pruned.partitions) or "none"
    return (
        f"{'Would delete' if dry_run else 'Deleted'}: {pruned.records} records, {pruned.minutes} minute roll-ups, "
        f"{pruned.bodies} bodies, {pruned.audit} audit events, {pruned.sessions} expired sessions; partitions: {dropped}."
    )
