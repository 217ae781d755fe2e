"""manage.py init: everything a first start needs. Safe to repeat."""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

from proxy_site import env

MAKE = {
    "SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "GATEHOUSE_PEPPER": lambda: secrets.token_urlsafe(48),
    "GATEHOUSE_ENCRYPTION_KEYS": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
}


class Command(BaseCommand):
    help = "Write missing secrets, migrate, and create the first administrator. Safe to repeat."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        made = write_missing_secrets(settings.DATA_DIR)
        if made:
            self.stdout.write(
                f"Wrote {', '.join(made)} to {settings.DATA_DIR / 'secrets.env'} (keep a copy, and keep it secret)."
            )
            # Settings were read before these existed: the rest runs in a process that knows them.
            sys.stdout.flush()
            os.execv(sys.executable, [sys.executable, *sys.argv])
        else:
            self.stdout.write("All secrets are there.")
        call_command("migrate", verbosity=0)
        self.stdout.write(f"The database is migrated ({settings.DATABASES['default']['ENGINE'].rsplit('.', 1)[-1]}).")
        self.administrator()

    def administrator(self) -> None:
        from keys.models import User

        if User.objects.filter(is_superuser=True).exists():
            self.stdout.write("There is an administrator already.")
            return
        email = env.given("GATEHOUSE_ADMIN_EMAIL") or "admin@localhost.localdomain"
        password = env.given("GATEHOUSE_ADMIN_PASSWORD")
        chosen = password or secrets.token_urlsafe(12)
        User.objects.create_superuser(email, chosen)
        self.stdout.write(f"Created the administrator {email}.")
        if not password:
            self.stdout.write(f"Password (shown once): {chosen}")


def write_missing_secrets(data_dir: Path) -> list[str]:
    """Make the secrets that neither the environment nor secrets.env has. Returns their names."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = data_dir / "secrets.env"
    held = {line.split("=", 1)[0] for line in path.read_text().splitlines() if "=" in line} if path.exists() else set()
    missing = [name for name in env.SECRETS if name not in held and not env.given(name)]
    if missing:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a") as file:
            file.writelines(f"{name}={MAKE[name]()}\n" for name in missing)
    return missing
