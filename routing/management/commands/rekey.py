"""Seal every credential anew under the first of GATEHOUSE_ENCRYPTION_KEYS, so that older keys can be removed."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routing import credentials
from routing.models import Connection


class Command(BaseCommand):
    help = __doc__ or ""

    def handle(self, *args: Any, **options: Any) -> None:
        """Row by row, only if the row has not changed meanwhile: stopped at any point, it goes on when run again."""
        done = kept = 0
        failed: list[str] = []
        for connection in Connection.objects.exclude(sealed_credential="").iterator():
            try:
                if credentials.sealed_by_first_key(connection.sealed_credential):
                    kept += 1
                    continue
                sealed = credentials.reseal(connection)
            except credentials.CredentialError as error:
                failed.append(f"{connection.name}: {error}")
                continue
            same = Connection.objects.filter(pk=connection.pk, sealed_credential=connection.sealed_credential)
            done += same.update(sealed_credential=sealed)
        self.stdout.write(f"{done} sealed anew, {kept} already under the first key.")
        if failed:
            raise CommandError("These could not be opened and stay as they are:\n  " + "\n  ".join(failed))
