"""Parameters that a deployment's upstream refused although a call can do without: remembered, so that it is asked once.

Capability tables say what is known of a model; this is what was found out. A note is for one version of a deployment
(any change of it is a new one) and for an hour: upstreams learn, too.
"""

from __future__ import annotations

import time
from typing import Any

Json = dict[str, Any]
KEPT = 3600.0  # seconds
MOST = 1_000  # deployments

_noted: dict[str, dict[str, float]] = {}  # version -> vendor's name, dotted -> until when; oldest version first


def note(version: str, name: str) -> None:
    """This version of a deployment does not take the parameter `name`."""
    _noted[version] = {**_noted.pop(version, {}), name: time.monotonic() + KEPT}
    if len(_noted) > MOST:
        del _noted[next(iter(_noted))]


def known(version: str) -> list[str]:
    """What this version of a deployment is known not to take."""
    names = _noted.get(version)
    if not names:
        return []
    now = time.monotonic()
    return [name for name, until in names.items() if now < until]


def without(payload: Json, name: str) -> Json | None:
    """A copy without the parameter of that dotted name, and without what it leaves empty; None when there is none."""
    first, _, rest = name.partition(".")
    if first not in payload:
        return None
    inner: Json | None = {}
    if rest:
        found = payload[first]
        inner = without(found, rest) if isinstance(found, dict) else None
        if inner is None:
            return None
    return {key: inner if key == first else value for key, value in payload.items() if key != first or inner}
