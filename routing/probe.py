"""Test a connection: one small call, told in a sentence that may be shown. Nothing is saved."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib import json
from routing import upstream
from routing.catalog import DeploymentEntry
from routing.errors import UpstreamError, UpstreamRefusal

PATIENCE = 15.0  # seconds
LONGEST = 300  # characters of a vendor's message

_SECRET = re.compile(r"(sk-|AIza|ya29\.|AKIA|ASIA|Bearer\s+|eyJ)[A-Za-z0-9_.\-/+=]{6,}|[A-Za-z0-9_\-/+=]{40,}")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """status: the HTTP status, 0 when there was no answer. latency_ms: until the whole answer."""

    ok: bool
    status: int
    latency_ms: int
    message: str


async def test_connection(deployment: DeploymentEntry, payload: dict[str, Any] | bytes) -> ProbeResult:
    """Send `payload` (a call for one token, in the deployment's language) and tell what came of it. Never raises
    for what an upstream does."""
    started = time.monotonic()
    status = 0
    try:
        request = await deployment.backend.prepare(deployment.endpoint, payload, "generate")
        answer = await upstream.send(deployment, request, deadline=started + PATIENCE)
        status, message = answer.status, "The upstream answered."
    except UpstreamRefusal as refusal:
        status, message = refusal.status, f"The upstream answered {refusal.status}{_said(refusal.body)}."
    except UpstreamError as error:
        status, message = error.provider_status or 0, error.message
    taken = int((time.monotonic() - started) * 1000)
    return ProbeResult(200 <= status < 300, status, taken, redact(message, deployment.endpoint.credential))


test_connection.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of its name


def redact(text: str, credential: Mapping[str, str]) -> str:
    """`text` without the credential and whatever else looks like one, on one line."""
    for secret in sorted(credential.values(), key=len, reverse=True):
        if len(secret) >= 6:
            text = text.replace(secret, "••••")
    return _SECRET.sub("••••", " ".join(text.split()))


def _said(body: bytes) -> str:
    """The vendor's own sentence, if the body has one where vendors have it."""
    try:
        found = json.loads(body)
    except json.JSONDecodeError:
        return ""
    if isinstance(found, list) and found:
        found = found[0]
    said: Any = None
    for name in ("error", "message", "Message", "detail"):
        if isinstance(found, dict) and name in found:
            said = found = found[name]
    return f": {said[:LONGEST].rstrip('.')}" if isinstance(said, str) else ""
