"""manage.py recost: price the records of a period again; roll-ups follow."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from usage import prices, recosting
from usage.management import period


class Command(BaseCommand):
    help = "Price the records of a period with the prices known now, each at its own time. Roll-ups follow."

    def add_arguments(self, parser: CommandParser) -> None:
        period.add_arguments(parser)
        parser.add_argument("--dry-run", action="store_true", help="Say what would change, and leave it.")
        parser.add_argument("--json", action="store_true")

    def handle(self, *, start: str, end: str, dry_run: bool, json: bool, **options: Any) -> None:
        done = recosting.recost(*period.read(start, end), dry_run=dry_run)
        self.stdout.write(_as_json(done, dry_run) if json else _as_text(done, dry_run))


def _as_json(done: recosting.Recosted, dry_run: bool) -> str:
    return json.dumps({"dry_run": dry_run, **dataclasses.asdict(done)})


def _as_text(done: recosting.Recosted, dry_run: bool) -> str:
    return (
        f"{done.seen} records, {done.changed} {'would change' if dry_run else 'changed'}: "
        f"{prices.usd(done.before):f} USD before, {prices.usd(done.after):f} USD after. "
        f"{done.unpriced} have no known price."
        + ("" if dry_run or not done.changed else " Spend counters follow with `manage.py reconcile`.")
    )
