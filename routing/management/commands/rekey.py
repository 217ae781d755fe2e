"""Seal everything that is sealed anew under the first of GATEHOUSE_ENCRYPTION_KEYS, so that older keys can be removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keys.models import Organization, SecondFactor
from routing import credentials
from routing.models import Connection


def text(purpose: str, field: str) -> Callable[[Any], str]:
    """How a value that `seal_text` sealed for a row is sealed anew."""

    def reseal(row: Any) -> str:
        place = purpose, str(row.pk)
        return credentials.seal_text(*place, credentials.open_text(*place, getattr(row, field)))

    return reseal


# Whose rows, in which column, and how. Stored bodies go with their retention.
SEALED: tuple[tuple[Any, str, Callable[[Any], str]], ...] = (
    (Connection, "sealed_credential", credentials.reseal),
    (Organization, "alert_webhook_secret", text("webhook", "alert_webhook_secret")),
    (SecondFactor, "sealed_secret", text("second factor", "sealed_secret")),
)


class Command(BaseCommand):
    help = __doc__ or ""

    def handle(self, *args: Any, **options: Any) -> None:
        """Row by row, only if the row has not changed meanwhile: stopped at any point, it goes on when run again."""
        done = kept = 0
        failed: list[str] = []
        for model, field, reseal in SEALED:
            for row in model.objects.exclude(**{field: ""}).iterator():
                before = getattr(row, field)
                try:
                    if credentials.sealed_by_first_key(before):
                        kept += 1
                        continue
                    sealed = reseal(row)
                except credentials.CredentialError as error:
                    failed.append(f"{row}: {error}")
                    continue
                done += model.objects.filter(pk=row.pk, **{field: before}).update(**{field: sealed})
        self.stdout.write(f"{done} sealed anew, {kept} already under the first key.")
        if failed:
            raise CommandError("These could not be opened and stay as they are:\n  " + "\n  ".join(failed))
