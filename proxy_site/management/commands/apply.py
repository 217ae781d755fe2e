"""manage.py apply FILE.yaml: organizations, connections, models and keys as a file wants them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.audit import Actor


class Command(BaseCommand):
    help = "Make organizations, connections, models and keys as a YAML file wants them. Safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="A YAML file; - reads standard input.")
        parser.add_argument("--dry-run", action="store_true", help="Show what would change, change nothing.")
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        from proxy_site import configuration

        try:
            text = sys.stdin.read() if options["file"] == "-" else Path(options["file"]).read_text()
        except OSError as error:
            raise CommandError(f"{options['file']} cannot be read: {error.strerror}.") from None
        actor = Actor(id="", name="manage.py apply", source="command", address="")
        try:
            outcome = configuration.apply(text, actor=actor, dry_run=options["dry_run"])
        except configuration.ConfigurationError as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            said = {
                "dry_run": options["dry_run"],
                "changes": [asdict(each) for each in outcome.changes],
                "keys": outcome.secrets,
            }
            self.stdout.write(json.dumps(said, default=str))
            return
        for change in outcome.changes:
            self.stdout.write(f"{'+' if change.action == 'create' else '~'} {change.type} {change.name}")
            for name, (before, after) in change.fields.items():
                self.stdout.write(f"    {name}: {before!r} → {after!r}")
        if not outcome.changes:
            self.stdout.write("Nothing to change.")
        elif options["dry_run"]:
            self.stdout.write("Dry run: nothing was changed.")
        for made in outcome.secrets:
            self.stdout.write(f"\nSecret of {made['organization']}/{made['name']} (shown once): {made['secret']}")
