"""manage.py listlimits: every limit, on whom it is and what it says."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Q

from keys.management import limits, wording
from keys.models import Limit


class Command(BaseCommand):
    help = "List the limits of organizations, teams and keys."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", metavar="SLUG", help="With its teams and keys. Not given: all.")
        parser.add_argument("--key", metavar="ID", help="Only those on this key itself.")
        parser.add_argument("--json", action="store_true", help="Print a JSON array.")

    def handle(self, **options: Any) -> None:
        found = Limit.objects.select_related("organization", "team__organization", "key__organization")
        if options["key"]:
            found = found.filter(key=wording.key(options["key"]))
        if options["organization"]:
            whose = wording.organization(options["organization"])
            found = found.filter(Q(organization=whose) | Q(team__organization=whose) | Q(key__organization=whose))
        rows = [limits.row(each) for each in found]
        if options["json"]:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            self.stdout.write(limits.line(row))
        if not rows:
            self.stdout.write("There are no limits.")
