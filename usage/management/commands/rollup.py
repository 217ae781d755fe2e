"""manage.py rollup --rebuild: make the roll-ups of a period anew from its records."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from usage import recosting
from usage.management import period


class Command(BaseCommand):
    help = "Make the roll-ups of a period anew from its records, by whole UTC days. Safe while the server runs."

    def add_arguments(self, parser: CommandParser) -> None:
        period.add_arguments(parser)
        parser.add_argument("--rebuild", action="store_true", required=True, help="Yes, replace what is there.")

    def handle(self, *, start: str, end: str, **options: Any) -> None:
        try:
            read = recosting.rebuild(*period.read(start, end))
        except recosting.BadPeriod as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Roll-ups made anew from {read} records.")
