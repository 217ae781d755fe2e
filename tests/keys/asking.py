"""Ask a look-up from a synchronous test, as one request after another would."""

from __future__ import annotations

import asyncio

from keys import lookup
from keys.context import Caller


def ask(secret: str, of: lookup.Lookup | None = None) -> Caller:
    return asyncio.run((of.find if of else lookup.find)(secret, "header", "127.0.0.1"))
