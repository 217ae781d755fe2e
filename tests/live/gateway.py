"""The real product for a test: `manage.py serve` in a process of its own, with a database and keys of its own.

    with gateway({"organizations": [...], "connections": [connection_to(vendor)], ...}) as running:
        httpx2.post(f"{running.url}/v1beta/models/...", headers={"x-goog-api-key": running.keys["ci"]})

A kill and a restart keep the data, as they would in production. Nothing of a developer's own environment gets in.
What only prepares it (the configuration, a row that time would have changed) is done from this process, which has loaded
Django already: starting another one takes a second of a processor.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import dj_database_url
import psycopg
import redis
from django.core.management import call_command
from django.db import connections
from django.db.utils import ConnectionHandler

from tests.plugin import OURS_WITHOUT_PREFIX
from tests.servers import REDIS_DATABASES, die_with_parent, free_port

HOUSE = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 30.0
Store = Literal["embedded", "servers"]
T = TypeVar("T")
_numbers = count(1)

# What a connection to the upstream of that name says in YAML, beside its name and kind.
_PLAIN = {"credential": {"api_key": "upstream-key"}}
PLACES: dict[str, dict[str, Any]] = {
    "gemini": _PLAIN,
    "openai": {**_PLAIN, "path": "/v1"},
    "compatible": {**_PLAIN, "path": "/v1", "kind": "openai"},
    "openai_responses": {**_PLAIN, "path": "/v1"},
    "azure_openai": {**_PLAIN, "options": {"api_version": "2024-10-21"}},
    "gemini_openai": _PLAIN,
    "anthropic": _PLAIN,
    "bedrock": {
        "credential": {
            "aws_access_key_id": "AKIDEXAMPLE",
            "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        },
        "options": {"region": "us-east-1"},
    },
    "vertex": {"options": {"project": "test-project", "location": "us-central1"}},
}


# A ledger that makes sure of every look at what has come looks twenty times a second, not twice. For those who wait for
# the records of many calls, one after the other.
LOOKING_OFTEN = {"GATEHOUSE_SPOOL_FSYNC": "true"}


def connection_to(upstream: Any, kind: str, name: str = "", **more: Any) -> dict[str, Any]:
    """A connection for `apply` that reaches this running upstream (a name of tests/upstreams/serve.py)."""
    place = dict(PLACES[kind])
    base_url = upstream.url + place.pop("path", "")
    if kind == "vertex":
        place["credential"] = {"service_account": json.dumps(upstream.service_account)}
    return {"name": name or kind, "kind": kind, "base_url": base_url, "allow_private": True} | place | more


def one_organization(connections: list[dict[str, Any]], models: list[dict[str, Any]], **key: Any) -> dict[str, Any]:
    """The plainest configuration: one organization, acme, whose key `ci` may use every model."""
    return {
        "organizations": [{"slug": "acme", "name": "Acme"}],
        "connections": connections,
        "models": models,
        "keys": [{"organization": "acme", "name": "ci", **key}],
    }


@dataclass
class Gateway:
    """A running installation. `keys`: secrets by the names of their keys; `log`: what the process wrote."""

    url: str
    port: int
    data_dir: Path
    environment: dict[str, str] = field(repr=False)
    workers: int = 1
    house: Path = HOUSE  # where the code stands
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        path = self.data_dir / "serve.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None, "it is not running"
        return self.process.pid

    def manage(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """One `manage.py` command against this installation; what it printed. Raises AssertionError when it fails."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.house,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} failed ({done.returncode}): {done.stderr[-3000:]}")
        return done.stdout

    def apply(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """`manage.py apply`; secrets of new keys land in `keys`. JSON is YAML."""
        text = json.dumps(configuration)
        if self.house == HOUSE:
            said = json.loads(self.inside(lambda: _apply(text, self.data_dir)))
        else:
            said = json.loads(self.manage("apply", "-", "--json", "--skip-checks", stdin=text))
        self.keys |= {key["name"]: key["secret"] for key in configuration.get("keys", []) if key.get("secret")}
        self.keys |= {key["name"]: key["secret"] for key in said["keys"]}
        return dict(said)

    def inside(self, work: Callable[[], T]) -> T:
        """What this function returns, when Django in this process works on the installation's database."""
        if url := self.environment.get("DATABASE_URL"):
            database = dict(dj_database_url.parse(url))
        else:
            database = dict(dj_database_url.parse(f"sqlite:///{self.data_dir}/gatehouse.sqlite3"))
            database["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}  # as proxy_site/settings.py has them

        def there() -> T:
            connections["default"] = ConnectionHandler({"default": database})["default"]
            try:
                return work()
            finally:
                connections["default"].close()

        # A thread has connections of its own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(there).result()

    def start(self) -> None:
        """Serve, and wait until it says that it is ready. Raises AssertionError with the end of its log."""
        self.launch()
        self.get_ready()

    def launch(self) -> None:
        """Serve, and don't wait for it: several processes can start at the same time."""
        command = [sys.executable, "manage.py", "serve", "--port", str(self.port), "--workers", str(self.workers)]
        with self._open_log() as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.house,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )

    def get_ready(self) -> None:
        """Wait for what `launch` began."""
        assert self.process is not None, "it was not started"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the gateway did not get ready:\n{self.log[-4000:]}")

    def _is_ready(self) -> bool:
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            asking.request("GET", "/readyz")
            return asking.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asking.close()

    def stop(self) -> int:
        """SIGTERM, as an operator stops it: it drains. The exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL to it and its workers: no handler runs."""
        return self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> int:
        if self.process is None:
            return 0
        with suppress(ProcessLookupError):
            if how is signal.SIGKILL:
                os.killpg(self.process.pid, how)  # its own session: the group is this process and its workers
            else:
                self.process.send_signal(how)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the gateway did not stop:\n{self.log[-4000:]}") from None
        finally:
            self.process = None
        return code

    def _open_log(self) -> IO[bytes]:
        return (self.data_dir / "serve.log").open("ab")


@contextmanager
def gateway(
    configuration: Mapping[str, Any] | None = None,
    *,
    store: Store | None = None,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    started: bool = True,
    house: Path = HOUSE,
) -> Iterator[Gateway]:
    """A fresh installation with this configuration, running; gone afterwards.

    store: "servers" takes a new database in the run's PostgreSQL and Redis, "embedded" SQLite and the in-process store;
    None: what the run has. environment: settings on top, GATEHOUSE_UPSTREAM_IDLE_TIMEOUT and the like.
    """
    chosen = store or ("servers" if os.environ.get("DATABASE_URL") else "embedded")
    if chosen == "servers" and not os.environ.get("DATABASE_URL"):
        raise AssertionError("this run is embedded: it has no PostgreSQL and no Redis")
    directory = Path(tempfile.mkdtemp(prefix="gatehouse-live-"))
    port = free_port()
    made = Gateway(f"http://127.0.0.1:{port}", port, directory, _environment(directory, environment), workers, house)
    try:
        if chosen == "servers":
            _give_servers(made)
        else:
            shutil.copyfile(migrated_sqlite(), directory / "gatehouse.sqlite3")
        if configuration is not None:
            made.apply(configuration)
        if started:
            made.start()
        yield made
    finally:
        made.kill()
        if chosen == "servers":
            _drop(made.environment.get("DATABASE_URL", ""))
        shutil.rmtree(directory, ignore_errors=True)


def _apply(text: str, directory: Path) -> str:
    file, said = directory / "configuration.yaml", StringIO()
    file.write_text(text)
    call_command("apply", str(file), json=True, stdout=said)
    file.unlink()  # it holds what the vendors know us by
    return said.getvalue()


def _environment(data_dir: Path, more: Mapping[str, str] | None) -> dict[str, str]:
    """This run's secrets, and nothing else of ours."""
    secrets = {"GATEHOUSE_PEPPER", "GATEHOUSE_ENCRYPTION_KEYS"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*OURS_WITHOUT_PREFIX, "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
        and (not name.startswith("GATEHOUSE_") or name in secrets)
    }
    # A machine that runs many tests at once is slow to answer: that is no outage of Redis.
    patient = {"GATEHOUSE_STORE_TIMEOUT": "2"}
    return {**kept, "GATEHOUSE_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1", **patient, **(more or {})}


# ── databases: migrated once in a run, by whichever process needs one first, and copied for every gateway ──


@cache
def migrated_sqlite() -> Path:
    """A database as `manage.py migrate` leaves it, to copy."""
    with _template("sqlite") as (directory, new):
        if new:
            _migrate(directory, None)
        # The write-ahead log is folded into the file when the last connection closes, so one file is everything.
        return directory / "gatehouse.sqlite3"


@cache
def _migrated_postgres() -> str:
    with _template("postgres") as (directory, new):
        name = "live_template_" + re.sub(r"\W", "", directory.parent.name)
        if new:
            _administer(f"CREATE DATABASE {name}")
            _migrate(directory, {"DATABASE_URL": _named(os.environ["DATABASE_URL"], name)})
        return name


@contextmanager
def _template(kind: str) -> Iterator[tuple[Path, bool]]:
    """A directory that the run's processes share, and whether it is new. One process at a time is here."""
    run = Path(os.environ["GATEHOUSE_DATA_DIR"])
    if os.environ.get("PYTEST_XDIST_WORKER"):
        run = run.parent
    directory = run / f"live-template-{kind}"
    with (run / f"live-template-{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = not directory.exists()
        directory.mkdir(exist_ok=True)
        yield directory, new


def _migrate(directory: Path, more: Mapping[str, str] | None) -> None:
    Gateway("", 0, directory, _environment(directory, more)).manage("migrate", "--verbosity", "0", "--skip-checks")


def _give_servers(made: Gateway) -> None:
    number = next(_numbers)
    name = f"live_{os.getpid()}_{number}"
    _administer(f"CREATE DATABASE {name} TEMPLATE {_migrated_postgres()}")
    made.environment["DATABASE_URL"] = _named(os.environ["DATABASE_URL"], name)
    if url := os.environ.get("REDIS_URL"):
        made.environment["REDIS_URL"] = _own_redis(url, number)


def _own_redis(url: str, number: int) -> str:
    """An empty logical database from the upper half; a developer's own server has fewer, and is shared as it is."""
    with redis.Redis.from_url(url) as client:
        if int(client.config_get("databases")["databases"]) < REDIS_DATABASES:
            return url
    half = REDIS_DATABASES // 2
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = _named(url, str(half + (worker * 8 + number) % half))
    with redis.Redis.from_url(mine) as client:
        client.flushdb()
    return mine


def _drop(url: str) -> None:
    if url and url != os.environ.get("DATABASE_URL"):
        _administer(f"DROP DATABASE IF EXISTS {urlsplit(url).path.strip('/')} WITH (FORCE)")


def _administer(statement: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(statement.encode())


def _named(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
