"""The dispatcher: API paths through the lean door, the rest to Django, and the lifespan that Django lacks."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxy_site.settings")

import django

django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402 - Django must be set up first
from django.core.handlers.asgi import ASGIHandler  # noqa: E402 - as above

from proxy_site import health, lifespan  # noqa: E402 - as above
from proxy_site.doors import ApiHandler  # noqa: E402 - as above

api_door = ApiHandler()
admin_door = ASGIHandler()
API_PREFIXES: tuple[str, ...] = settings.API_PREFIXES


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        path: str = scope["path"]
        if path.startswith(API_PREFIXES):
            await api_door(scope, receive, send)
        elif path in health.PATHS:
            await health.PATHS[path](scope, receive, send)
        else:
            await admin_door(scope, receive, send)
    elif scope["type"] == "lifespan":
        await lifespan.run(receive, send)
    else:
        await receive()
        await send({"type": "websocket.close", "code": 1000})
