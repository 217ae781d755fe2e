"""manage.py setlimit: set, change or remove one limit."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys import limiting
from keys.management import limits, wording


class Command(BaseCommand):
    help = "Set a limit on a key, a team or an organization. The amount 'none' removes it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("limit", help=limiting.FORM)
        limits.add_subject(parser)
        parser.add_argument("--soft", action="store_true", help="Only warn at 80, 95 and 100 %%.")
        parser.add_argument("--json", action="store_true", help="Print the limit as JSON; null when it was removed.")

    def handle(self, **options: Any) -> None:
        try:
            wanted = limiting.parse(options["limit"], hard=not options["soft"])
            limit = limiting.put(limits.subject(options), wanted, wording.actor())
        except limiting.LimitError as error:
            raise CommandError(str(error)) from None
        row = limits.row(limit) if limit else None
        if options["json"]:
            self.stdout.write(json.dumps(row, ensure_ascii=False))
        else:
            self.stdout.write(limits.line(row) if row else "The limit is gone.")
