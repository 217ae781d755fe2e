"""Processes of a measurement: start them, wait for their port, read their CPU from the operating system, stop them by pid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found += [int(child) for child in children]
    return found


def cpu(pid: int) -> float:
    """Seconds of user and system time of a process tree so far."""
    total = 0
    for each in tree(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(pid: int) -> int:
    """Resident bytes of a process tree."""
    total = 0
    for each in tree(pid):
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


@contextmanager
def process(
    line: list[str], port: int, variables: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on `port`; stopped in the end."""
    out = log.open("ab") if log else subprocess.DEVNULL
    child = subprocess.Popen(line, cwd=ROOT, env={**os.environ, **(variables or {})}, stdout=out, stderr=out)
    try:
        try:
            wait_for(port, child)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {log.read_text()[-2000:] if log else ''}") from None
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_for(port: int, child: subprocess.Popen[bytes], seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if child.poll() is not None:
            raise RuntimeError(f"{child.args!r} ended by itself")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}")


@dataclass
class Gateway:
    """A running Gatehouse. keys: name -> secret."""

    port: int
    pid: int
    data: Path
    process: subprocess.Popen[bytes]
    variables: dict[str, str]
    keys: dict[str, str] = field(default_factory=dict)


def manage(variables: dict[str, str], *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env={**os.environ, **variables}, input=text, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"manage.py {' '.join(arguments)}: {done.stderr}{done.stdout}")
    return done.stdout


@contextmanager
def gateway(configuration: str, *, workers: int = 1, variables: dict[str, str] | None = None) -> Iterator[Gateway]:
    """Gatehouse with this configuration, in a data directory of its own; embedded unless `variables` name servers."""
    data = Path(tempfile.mkdtemp(prefix="gatehouse-bench-"))
    port = free_port()
    own = {
        "GATEHOUSE_DATA_DIR": str(data), "DATABASE_URL": "", "REDIS_URL": "", "LOG_LEVEL": "WARNING", "PORT": str(port),
        "DJANGO_SETTINGS_MODULE": "proxy_site.settings", **(variables or {}),
    }  # fmt: skip
    try:
        manage(own, "init")
        made = json.loads(manage(own, "apply", "-", "--json", text=configuration))
        line = [sys.executable, "manage.py", "serve", "--port", str(port), "--workers", str(workers)]
        with process(line, port, own, log=data / "serve.log") as child:
            keys = {each["name"]: each["secret"] for each in made["keys"]}
            yield Gateway(port, child.pid, data, child, own, keys)
    finally:
        shutil.rmtree(data, ignore_errors=True)
