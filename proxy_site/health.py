"""/healthz, /readyz, /metrics: for machines that look after machines. Plain ASGI, no Django."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

from lib import json
from lib import metrics as numbers
from proxy_site import env, lifespan

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def respond(send: Send, status: int, body: bytes, content_type: str = "application/json") -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def healthz(scope: dict[str, Any], receive: Any, send: Send) -> None:
    """The process is alive. No I/O."""
    await respond(send, 200, b'{"status":"ok"}')


async def readyz(scope: dict[str, Any], receive: Any, send: Send) -> None:
    """Whether calls should be sent here: 200 or 503, with a word for each part."""
    checks = await lifespan.checks()
    ready = all(word in ("ok", "not used", "degraded") for word in checks.values())
    await respond(
        send, 200 if ready else 503, json.dumps({"status": "ok" if ready else "unavailable", "checks": checks})
    )


async def metrics(scope: dict[str, Any], receive: Any, send: Send) -> None:
    """Prometheus text, for whoever shows METRICS_TOKEN as a bearer; without a token set, only for loopback."""
    token: str = settings.GATEHOUSE.metrics_token
    shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    client = (scope.get("client") or ("",))[0]
    allowed = hmac.compare_digest(shown, f"Bearer {token}".encode()) if token else client in ("127.0.0.1", "::1")
    if not allowed:
        await respond(send, 403, b'{"status":"forbidden"}')
        return
    numbers.TASKS.set(len(asyncio.all_tasks()))  # here, because the rest is asked in a thread
    body, content_type = await asyncio.to_thread(numbers.text, env.metrics_directory())
    await respond(send, 200, body, content_type)


PATHS = {
    "/healthz": healthz,
    "/health/liveliness": healthz,
    "/readyz": readyz,
    "/health/readiness": readyz,
    "/metrics": metrics,
}
