"""manage.py rotatekey ID: a new secret for a key; the old one goes on for a grace time."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys import issue
from keys.management import wording


class Command(BaseCommand):
    help = "Give a key a new secret and print it, once. The old one goes on for the grace time."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id")
        parser.add_argument("--grace", default="24h", metavar="HOW LONG", help="0, 1h, 24h, 7d ... (default 24h)")
        parser.add_argument("--json", action="store_true", help='Print {"id": ..., "secret": ...}.')

    def handle(self, *args: Any, **options: Any) -> None:
        key, grace = wording.key(options["id"]), wording.duration(options["grace"])
        try:
            secret = issue.rotate(key, grace, wording.actor())
        except issue.IssueError as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"id": str(key.pk), "secret": secret}))
            return
        until = f"is refused after {options['grace']}" if grace else "is refused from now on"
        self.stdout.write(f"New secret of {key.name}:\n\n    {secret}\n")
        self.stdout.write(f"This is the only time it is shown. The old one {until}.")
