"""manage.py revokekey ID: end a key for good."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from keys import issue
from keys.management import wording
from keys.models import VirtualKey


class Command(BaseCommand):
    help = "Revoke a key for good. Every process refuses it within a second."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id")
        parser.add_argument("--json", action="store_true", help='Print {"id": ..., "state": "revoked"}.')

    def handle(self, *args: Any, **options: Any) -> None:
        key = wording.key(options["id"])
        before = key.state
        issue.revoke(key, wording.actor())
        if options["json"]:
            self.stdout.write(json.dumps({"id": str(key.pk), "state": str(key.state)}))
            return
        done = "was revoked already" if before == VirtualKey.State.REVOKED else "is revoked"
        self.stdout.write(f"Key {key.name} of {key.organization.name} {done}.")
