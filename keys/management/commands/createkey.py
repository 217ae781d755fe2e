"""manage.py createkey: issue a virtual key. Its secret is printed once."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from keys import issue, limiting
from keys.management import wording
from keys.models import Organization, Team, VirtualKey


class Command(BaseCommand):
    help = "Issue a virtual key and print its secret, once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", required=True, metavar="SLUG")
        parser.add_argument("--name", required=True, help="Unique in its organization.")
        parser.add_argument("--team", metavar="SLUG")
        parser.add_argument("--models", metavar="A,B", help="Names or patterns. Not given: every model; empty: none.")
        parser.add_argument("--deny", metavar="A,B", help="Names or patterns that are refused in any case.")
        parser.add_argument("--scopes", metavar="A,B", help="Actions such as generateContent. Not given: all.")
        parser.add_argument("--networks", metavar="A,B", help="CIDR ranges. Not given: anywhere.")
        parser.add_argument("--expires", metavar="WHEN", help="30d, 24h, 2027-01-31 or 2027-01-31T12:00Z.")
        parser.add_argument("--limit", action="append", default=[], metavar="LIMIT", help=limiting.FORM)
        parser.add_argument("--json", action="store_true", help='Print {"id": ..., "secret": ...}.')

    def handle(self, *args: Any, **options: Any) -> None:
        organization = wording.organization(options["organization"])
        team = wording.team(options["team"], organization) if options["team"] else None
        try:
            limits = [limiting.parse(each) for each in options["limit"]]
            with transaction.atomic():
                key, secret = self.issue(organization, team, options)
                for limit in limits:
                    limiting.put(key, limit, wording.actor())
        except (issue.IssueError, limiting.LimitError) as error:
            raise CommandError(str(error)) from None
        if options["json"]:
            self.stdout.write(json.dumps({"id": str(key.pk), "secret": secret}))
            return
        self.stdout.write(f"Key {key.name} of {organization.name} ({key.pk}):\n\n    {secret}\n")
        self.stdout.write("This is the only time its secret is shown.")

    def issue(self, organization: Organization, team: Team | None, options: dict[str, Any]) -> tuple[VirtualKey, str]:
        return issue.issue(
            organization=organization,
            team=team,
            name=options["name"],
            allowed_models=wording.names(options["models"]),
            denied_models=wording.names(options["deny"]) or (),
            scopes=wording.names(options["scopes"]),
            networks=wording.names(options["networks"]),
            expires_at=wording.moment(options["expires"]) if options["expires"] else None,
            actor=wording.actor(),
        )
