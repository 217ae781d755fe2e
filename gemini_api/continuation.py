"""Which deployment broke off an answer that can be continued.

A model may end an answer with finishReason CONTINUATION and a token; the client asks the same again with that token, and
only the deployment that made it can read it. The token is nobody's business, so it goes through untouched, and this
process remembers where it came from. A process that does not know it (another worker, a restart) routes as usual.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from lib.bounded import forget_oldest

KEPT = 3600.0  # seconds
MOST = 10_000  # tokens

_made_by: dict[bytes, tuple[str, float]] = {}  # hash of a token -> deployment id, until when; oldest first


def remember(token: str, deployment_id: str) -> None:
    key = _hash(token)
    _made_by.pop(key, None)
    _made_by[key] = (deployment_id, time.monotonic() + KEPT)
    forget_oldest(_made_by, MOST)


def made_by(body: Mapping[str, Any]) -> str:
    """The id of the deployment whose answer this request continues; an empty string when it is none, or unknown."""
    token = body.get("continuationToken") or body.get("continuation_token")
    if not isinstance(token, str) or not token:
        return ""
    deployment_id, until = _made_by.get(_hash(token), ("", 0.0))
    return deployment_id if time.monotonic() < until else ""


def _hash(token: str) -> bytes:
    """Of the bytes, however the client spells their base64."""
    standard = token.translate(_STANDARD).rstrip("=")
    return hashlib.blake2b(standard.encode("utf-8", "surrogatepass"), digest_size=16).digest()


_STANDARD = str.maketrans("-_", "+/")
