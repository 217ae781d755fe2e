"""manage.py listkeys: every key, its state and when it was last used. Never a secret."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from keys.management import wording
from keys.models import VirtualKey


class Command(BaseCommand):
    help = "List the virtual keys."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", metavar="SLUG")
        parser.add_argument("--json", action="store_true", help="Print a JSON array.")

    def handle(self, *args: Any, **options: Any) -> None:
        keys = VirtualKey.objects.select_related("organization", "team").prefetch_related("secrets")
        keys = keys.order_by("organization__slug", "name")
        if options["organization"]:
            keys = keys.filter(organization=wording.organization(options["organization"]))
        rows = [_row(key) for key in keys]
        if options["json"]:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            models = "every model" if row["allowed_models"] is None else ", ".join(row["allowed_models"]) or "no model"
            used = f"last used {row['last_used_at'][:16]}" if row["last_used_at"] else "never used"
            self.stdout.write(
                f"{row['id']}  {row['organization']}/{row['name']}  {row['state']}  "
                f"{' '.join(row['hints']) or 'no live secret'}  {models}  {used}"
            )
        if not rows:
            self.stdout.write("There are no keys yet.")


def _row(key: VirtualKey) -> dict[str, Any]:
    return {
        "id": str(key.pk),
        "organization": key.organization.slug,
        "team": key.team.slug if key.team else None,
        "name": key.name,
        "state": "expired" if key.state == VirtualKey.State.ACTIVE and not key.is_live else key.state,
        "hints": [secret.hint for secret in key.secrets.all() if secret.revoked_at is None],
        "allowed_models": key.allowed_models,
        "denied_models": key.denied_models,
        "expires_at": _iso(key.expires_at),
        "created_at": _iso(key.created_at),
        "last_used_at": _iso(key.last_used_at),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at else None
