"""`manage.py backendsdoc > docs/backends.md`: what the code says of its backends and languages, as a page."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from gemini_api import backends_page


class Command(BaseCommand):
    help = "Write the page about backends (docs/backends.md) from the code's own tables."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(backends_page.page(), ending="")
