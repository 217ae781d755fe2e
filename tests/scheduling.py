"""Which test goes to which process, and when.

A file goes to one process as a whole. Files that ask for the same running installation go together, so that it is
started once; and folders whose tests wait for processes come first, so that all processes are busy to the end.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

HOUSE = Path(__file__).parent.parent
FIRST = ("tests/live/", "tests/browser/", "tests/proxy_site/", "tests/usage/", "tests/keys/")
# folder: how a test in it asks for the installation that they share
SHARED = {"tests/live": "world: World", "tests/browser": "guest: Visitor"}


def place(item: pytest.Item) -> int:
    """Sort key: the place of the test's folder."""
    return next((number for number, folder in enumerate(FIRST) if item.nodeid.startswith(folder)), len(FIRST))


class Scheduling(LoadScopeScheduling):
    """pytest-xdist's, by file, in the order of collection."""

    @cached_property
    def _together(self) -> dict[str, str]:
        """Files that share an installation, and the folder they share it in."""
        return {
            f"{folder}/{path.name}": folder
            for folder, asked in SHARED.items()
            for path in (HOUSE / folder).glob("test_*.py")
            if asked in path.read_text()
        }

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return self._together.get(file, file)
