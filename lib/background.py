"""Work beside the calls: rounds of it, again and again, that outlive their own failures and end when they are told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.db import Error

log = logging.getLogger(__name__)

AGAIN = 1.0  # seconds after a failed round, at the least


class Background:
    """One task of a process, which does `work` for ever. Nobody waits for it, and nothing it raises ends it.

    every: seconds from the end of a round to the next one; 0 for work that itself waits for something. again: the
    same after a round that failed. first: seconds before the first round. name: of the task, and in the log.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[Any]],
        *,
        every: float = 0.0,
        again: float | None = None,
        first: float = 0.0,
    ) -> None:
        self.name = name
        self._work = work
        self._every = every
        self._again = max(every, AGAIN) if again is None else again
        self._first = first
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def close(self) -> None:
        """The round under way is broken off. It can be opened again."""
        task, self._task = self._task, None
        if task is not None:
            await cancelled(task)

    async def _run(self) -> None:
        await asyncio.sleep(self._first)
        while True:
            try:
                await self._work()
            except Exception as error:
                # The database and the network come and go. Anything else is a fault of ours: its place is told.
                expected = isinstance(error, Error | OSError)
                log.warning(
                    "%s failed (%s); it goes on in %g seconds.",
                    self.name, type(error).__name__, self._again, exc_info=not expected,
                )  # fmt: skip
                await asyncio.sleep(self._again)
            else:
                await asyncio.sleep(self._every)


class Following(Background):
    """Does `work` after every notice. Those that come meanwhile make one more round, not a queue; one that fails is
    done again."""

    def __init__(self, name: str, work: Callable[[], Awaitable[Any]], *, again: float = AGAIN) -> None:
        super().__init__(name, self._follow, again=again)
        self._answer = work
        self._noticed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Notices from before are not forgotten."""
        self._loop = asyncio.get_running_loop()
        await super().open()

    async def close(self) -> None:
        self._loop = None
        await super().close()
        self._noticed = asyncio.Event()  # the old one belongs to this loop

    def notice(self, *about: Any) -> None:
        """From any thread, also while it is not open."""
        loop, noticed = self._loop, self._noticed
        if loop is None:
            noticed.set()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(noticed.set)

    async def _follow(self) -> None:
        noticed = self._noticed
        await noticed.wait()
        noticed.clear()
        try:
            await self._answer()
        except BaseException:
            noticed.set()
            raise


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """End them, and wait until they have ended, however they do."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
