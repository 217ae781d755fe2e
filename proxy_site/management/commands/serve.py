"""manage.py serve: the product, in one process or several."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Serve the Gemini API and the admin."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.GATEHOUSE.host)
        parser.add_argument("--port", type=int, default=settings.GATEHOUSE.port)
        parser.add_argument("--workers", type=int, default=settings.GATEHOUSE.workers)

    def handle(self, *args: Any, **options: Any) -> None:
        from proxy_site import checks, server

        workers = options["workers"]
        if workers > 1 and not settings.REDIS_URL:
            raise CommandError(
                f"{workers} workers need REDIS_URL: without it, limits, cool-downs and key changes live in one process's "
                "memory, and several processes would each count for themselves. Set REDIS_URL, or use --workers 1."
            )
        if trouble := checks.secrets_trouble():
            raise CommandError(trouble)
        if trouble := checks.database_trouble():
            raise CommandError(trouble)
        server.run(options["host"], options["port"], workers)
