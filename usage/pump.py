"""Pump: a thread that brings what waits on disk into the database, again and again, however long that is gone."""

from __future__ import annotations

import logging
import threading
import time

from django.db import InterfaceError, OperationalError, connection

logger = logging.getLogger(__name__)

PATIENCE = (0.5, 1.0, 2.0, 5.0)  # seconds between tries while the database is gone
LAST = 10.0  # seconds that stop() gives what is left, as a rule


class Pump:
    """The thread, with a database connection of its own, and its state for health pages and metrics.

    `step` is one round and is a subclass's own; one that raises is tried again, so it must lose nothing by that.
    """

    def __init__(self, name: str, tick: float, last: float = LAST) -> None:
        self.name = name
        self._last = last
        self.tick = tick  # seconds between two rounds
        self.failures = 0  # rounds in a row that failed
        self.behind_since: float | None = None  # monotonic
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """A round now, please."""
        self._wake.set()

    def stop(self) -> None:
        """One more round, or as many as its last seconds allow until one succeeds; the rest waits on disk for the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(PATIENCE[min(self.failures, len(PATIENCE)) - 1] if self.failures else self.tick)
                self._wake.clear()
                self._try()
            deadline = time.monotonic() + self._last
            while not self._try() and time.monotonic() < deadline:
                time.sleep(PATIENCE[0])
        finally:
            connection.close()

    def _try(self) -> bool:
        """One round. False: the database is gone, or something unforeseen happened; nothing is lost by that."""
        try:
            self.step()
        except Exception as error:
            connection.close()
            if not self.failures:
                self.behind_since = time.monotonic()
                known = isinstance(error, (OperationalError, InterfaceError))
                logger.warning(
                    "The %s cannot write (%s); what waits on disk grows meanwhile.",
                    self.name,
                    error,
                    exc_info=not known,
                )
            self.failures += 1
            return False
        if self.failures:
            logger.warning("The %s writes again.", self.name)
        self.failures, self.behind_since = 0, None
        return True
