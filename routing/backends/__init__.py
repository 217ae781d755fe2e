"""The kinds of upstream: BACKENDS, found by looking into this folder for modules that end with `backend = ...`."""

from __future__ import annotations

import importlib
import pkgutil

from routing.backends.base import Backend

BACKENDS: dict[str, Backend] = {}

for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    if isinstance(getattr(_module, "backend", None), Backend):
        BACKENDS[_found.name] = _module.backend


def choices() -> list[tuple[str, str]]:
    """Kind and label of every backend, for forms. Callable, so that a new backend needs no migration."""
    return [(kind, backend.label) for kind, backend in sorted(BACKENDS.items())]
