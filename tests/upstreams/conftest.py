"""Upstreams for the tests of this folder: started once, forgotten before each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.upstreams.serve import UPSTREAMS, serve


@pytest.fixture(scope="session")
def _running() -> Iterator[Callable[[str], Any]]:
    started: dict[str, Any] = {}
    with ExitStack() as stack:

        def start(name: str) -> Any:
            if name not in started:
                started[name] = stack.enter_context(serve(UPSTREAMS[name]()))
            return started[name]

        yield start


@pytest.fixture
def upstream(_running: Callable[[str], Any]) -> Callable[[str], Any]:
    """`upstream("openai")`: that vendor, running, with nothing remembered."""

    def take(name: str) -> Any:
        running = _running(name)
        running.forget()
        return running

    return take
