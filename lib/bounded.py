"""Small memories of a process that must not grow without end."""

from __future__ import annotations

from typing import Any


def forget_oldest(memory: dict[Any, Any], most: int) -> None:
    """Keep the `most` that were put in last. What is put in anew must be taken out first, or it keeps its old place."""
    while len(memory) > most:
        del memory[next(iter(memory))]
