"""manage.py check, and what `serve` refuses to start with."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from django.conf import settings
from django.core.checks import Error, register
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from gemini_api.translators import TRANSLATORS
from routing.backends import BACKENDS
from routing.backends.base import Endpoint

SHORTEST = 32
EXAMPLES = ("django-insecure", "changeme", "change-me", "change_me")  # how examples of secrets begin


@register()
def every_language_is_spoken(app_configs: Any, **kwargs: Any) -> list[Error]:
    """Each backend's language has a translator."""
    found = []
    for kind, backend in BACKENDS.items():
        language = backend.speaks(Endpoint(kind=kind, base_url="", model=""))
        if language not in TRANSLATORS:
            found.append(
                Error(
                    f"The backend {kind} speaks {language}, but gemini_api/translators has no such file.",
                    id="gatehouse.E001",
                )
            )
    return found


def secrets_trouble() -> str:
    """Why this installation's secrets will not do; "" when they will."""
    secrets = {
        "SECRET_KEY": settings.SECRET_KEY,
        "GATEHOUSE_PEPPER": settings.GATEHOUSE_PEPPER,
        "GATEHOUSE_ENCRYPTION_KEYS": settings.GATEHOUSE_ENCRYPTION_KEYS,
    }
    for name, value in secrets.items():
        if not value or value == settings.PLACEHOLDER:
            return f"{name} is not set. Run `manage.py init` once; it writes what is missing."
        if value.lower().startswith(EXAMPLES):
            return f"{name} is a default or an example: anybody can guess it. Let `manage.py init` write one."
        if len(value) < SHORTEST:
            return f"{name} is too short: {SHORTEST} characters at least."
    if len(set(secrets.values())) < len(secrets):
        return "SECRET_KEY, GATEHOUSE_PEPPER and GATEHOUSE_ENCRYPTION_KEYS must be three different secrets."
    for key in settings.GATEHOUSE_ENCRYPTION_KEYS.split(","):
        try:
            size = len(base64.b64decode(key.strip(), validate=True))
        except binascii.Error:
            size = 0
        if size != 32:
            return "GATEHOUSE_ENCRYPTION_KEYS must be a comma list of 32-byte keys in base64."
    return ""


def database_trouble() -> str:
    """Why the database will not do; "" when it will, or when it is merely out of reach (then the gateway waits for it)."""
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError:
        return ""
    finally:
        connection.close()
    if pending:
        return "The database is not up to date. Run `manage.py init`."
    return ""
