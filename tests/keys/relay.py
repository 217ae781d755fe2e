"""A TCP relay before a server that can be cut (connections die, new ones are refused) or go silent (nothing arrives)."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Cable:
    """Cut and mend it, silence it and let it speak, as often as you like; its address stays the same."""

    def __init__(self, host: str, port: int) -> None:
        self._flows = threading.Event()
        self._flows.set()
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self.url = ""
        self._listen(0)

    @classmethod
    def to(cls, url: str) -> Self:
        """A cable to the server of that URL (with a host and a port); `url` is then the same one through the cable."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        cable = cls(parts.hostname, parts.port)
        user, at, _ = parts.netloc.rpartition("@")
        cable.url = urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{cable.port}"))
        return cable

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        with closing(self._listener), suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._open:
            with closing(each), suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open = []

    def silence(self) -> None:
        """Connections are taken and kept; what is said waits."""
        self._flows.clear()

    def speak(self) -> None:
        self._flows.set()

    def mend(self) -> None:
        self._listen(self.port)

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
