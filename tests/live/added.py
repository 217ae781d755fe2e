"""Models that a module needs beside the world's: applied to the running installation, which takes them in by itself."""

from __future__ import annotations

import time

from tests.live.world import Json, World


def added(world: World, models: list[Json], patience: float = 20.0) -> None:
    """Apply, and wait until the running process routes by it."""
    world.gateway.apply({"models": models})
    deadline = time.monotonic() + patience
    headers = {"x-goog-api-key": world.keys["ci"]}
    for name in [model["name"] for model in models]:
        while world.http.get(f"/v1beta/models/{name}", headers=headers).status_code != 200:
            assert time.monotonic() < deadline, f"{name} did not appear"
            time.sleep(0.05)
