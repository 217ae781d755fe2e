"""The database from threads that belong to no request: nobody else closes their connection, or gives it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import close_old_connections


@contextmanager
def own_connection() -> Iterator[None]:
    """Start without a connection that died meanwhile, and leave none behind."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
