"""manage.py webhooksecret: what an organization's webhook checks the signatures of alerts with."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys.management import wording
from routing.credentials import CredentialError
from usage.alerts import signing_secret


class Command(BaseCommand):
    help = "Show the secret that signs an organization's alerts; it is made when there is none yet."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True, metavar="SLUG")
        parser.add_argument("--json", action="store_true", help='Print {"secret": ...}.')

    def handle(self, **options: Any) -> None:
        try:
            secret = signing_secret(wording.organization(options["organization"]))
        except CredentialError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps({"secret": secret}) if options["json"] else secret)
