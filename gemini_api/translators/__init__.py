"""The languages beyond the door: TRANSLATORS, found by looking into this folder for modules with a `request`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from gemini_api.translators.base import Translator

TRANSLATORS: dict[str, Translator] = {}

for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    if hasattr(_module, "request") and hasattr(_module, "language"):
        TRANSLATORS[_module.language] = cast(Translator, _module)
