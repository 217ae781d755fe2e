"""manage.py makesecret: a secret for a key that `apply` is going to make."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from keys import secrets


class Command(BaseCommand):
    help = "Print a new secret that belongs to no key yet (for `secret: env:NAME` in a configuration file)."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own way to say "none"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help='Print {"secret": ...}.')

    def handle(self, *args: Any, **options: Any) -> None:
        secret = secrets.make()
        self.stdout.write(json.dumps({"secret": secret}) if options["json"] else secret)
