"""manage.py auditverify: is the audit trail as it was written?"""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from keys import audit
from keys.models import AuditEvent


class Command(BaseCommand):
    help = "Check the chain of the audit trail. Ends with an error when an event was changed, removed or put in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help='Print {"events": ..., "broken": null or an id}.')

    def handle(self, *args: Any, **options: Any) -> None:
        broken = audit.verify()
        events = AuditEvent.objects.count()
        if options["json"]:
            self.stdout.write(json.dumps({"events": events, "broken": broken}))
        if broken is not None:
            where = f"at or after event {broken}" if broken else "as all events are gone"
            raise CommandError(f"The audit trail is broken {where}.")
        if not options["json"]:
            self.stdout.write(f"The audit trail is whole: {events} events.")
