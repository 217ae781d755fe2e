"""What a test run needs before Django reads its settings: servers, secrets, a data directory.

Loaded with `-p tests.plugin` (pyproject.toml), because a conftest comes too late. DATABASE_URL and REDIS_URL are used
as they are when set; GATEHOUSE_TEST_STORE=embedded runs everything on SQLite and the in-process store.
"""

from __future__ import annotations

import atexit
import base64
import gc
import os
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import certifi
import pytest

from tests.scheduling import Scheduling, place
from tests.servers import REDIS_DATABASES, CannotStart, Servers

STORE = "GATEHOUSE_TEST_STORE"
# What one run hands to its xdist workers and to the servers it starts; everything else of ours is taken away, so
# that a developer's own settings never decide about a test.
HANDED_DOWN = {
    STORE, "GATEHOUSE_DATA_DIR", "GATEHOUSE_PEPPER", "GATEHOUSE_ENCRYPTION_KEYS", "GATEHOUSE_CHROMIUM", "GATEHOUSE_NODE_MODULES",
}  # fmt: skip
OURS_WITHOUT_PREFIX = (
    "DEBUG", "HOST", "PORT", "WEB_CONCURRENCY", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "FORWARDED_ALLOW_IPS",
    "METRICS_TOKEN", "LOG_LEVEL", "LOG_FORMAT", "EMAIL_URL", "DEFAULT_FROM_EMAIL", "SECRET_KEY_FILE",
    "DATABASE_URL_FILE", "REDIS_URL_FILE",
)  # fmt: skip

gc.set_threshold(50_000, 20, 50)  # while we load, as in manage.py


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """A wrapper, so that it comes before pytest-django's own hook, which imports the settings."""
    asked = early_config.known_args_namespace
    if not (asked.help or asked.version):
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        if worker:
            _move_in(int(worker.removeprefix("gw")) + 1)
        else:
            _furnish()
    return (yield)


def _furnish() -> None:
    """Once per run, in the process that was started: the environment everything below inherits."""
    for name in list(os.environ):
        if name in OURS_WITHOUT_PREFIX or (name.startswith("GATEHOUSE_") and name not in HANDED_DOWN):
            del os.environ[name]
    # Some hundred processes are started in a run: without bytecode each would compile the whole product anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    data = Path(tempfile.mkdtemp(prefix="gatehouse-data-"))
    atexit.register(_remove, data, os.getpid())
    os.environ["GATEHOUSE_DATA_DIR"] = str(data)
    if not os.environ.get("REDIS_URL", "").startswith("rediss:"):
        os.environ["SSL_CERT_FILE"] = str(_one_authority(data))
    os.environ["SECRET_KEY"] = secrets.token_urlsafe(48)
    os.environ["GATEHOUSE_PEPPER"] = secrets.token_urlsafe(48)
    keys = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    os.environ["GATEHOUSE_ENCRYPTION_KEYS"] = ",".join(keys)

    store = os.environ.get(STORE, "servers")
    if store == "embedded":
        os.environ.pop("DATABASE_URL", None)
        os.environ.pop("REDIS_URL", None)
        return
    if store != "servers":
        raise pytest.UsageError(f"{STORE} is 'servers' (PostgreSQL and Valkey, the default) or 'embedded'")
    servers = Servers()
    atexit.register(servers.stop)
    try:
        database, redis = servers.start(
            postgres=not os.environ.get("DATABASE_URL"), redis=not os.environ.get("REDIS_URL")
        )
    except CannotStart as why:
        raise pytest.UsageError(str(why)) from None
    os.environ["DATABASE_URL"] = os.environ.get("DATABASE_URL") or database
    os.environ["REDIS_URL"] = os.environ.get("REDIS_URL") or redis


def _one_authority(directory: Path) -> Path:
    """A file with one certificate authority. Every HTTP client that is made reads all it trusts, for 40 ms with the
    usual hundred and fifty; on loopback nobody needs any."""
    path = directory / "authority.pem"
    end = "-----END CERTIFICATE-----\n"
    path.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    return path


def _move_in(number: int) -> None:
    """Worker NUMBER (from 1) has a data directory and a logical Redis database of its own; pytest-django sees to its
    database."""
    data = Path(os.environ["GATEHOUSE_DATA_DIR"]) / f"worker{number}"
    data.mkdir(exist_ok=True)
    os.environ["GATEHOUSE_DATA_DIR"] = str(data)
    if url := os.environ.get("REDIS_URL"):
        parts = urlsplit(url)
        first = int(parts.path.strip("/") or 0)
        os.environ["REDIS_URL"] = urlunsplit(parts._replace(path=f"/{(first + number) % REDIS_DATABASES}"))


def _remove(directory: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        metavar="DIR",
        help="Where tests/browser/test_pictures.py keeps the pictures of the documentation.",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: the search for garbage, from here on, passes over it."""
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


# ── what this machine lacks is said, never hidden ──


def chromium() -> str | None:
    """The browser to test with: GATEHOUSE_CHROMIUM, the system's, or the one that playwright installed."""
    if named := os.environ.get("GATEHOUSE_CHROMIUM"):
        return named
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    installed = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    return next((str(path) for path in sorted(installed.glob("chromium-*/chrome-linux*/chrome"))), None)


def node() -> str | None:
    return shutil.which("node")


LACKING = {
    "browser": (chromium, "Chromium is not installed"),
    "node": (node, "node is not installed"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=place)
    for marker, (find, why) in LACKING.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and find() is None:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason: what was not run here, and how many tests that are."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[said.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("not run on this machine")
        for why, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:5} test{'s' if count > 1 else ' '}  {why}")


def pytest_report_header() -> str:
    if os.environ.get("DATABASE_URL") or os.environ.get("REDIS_URL"):
        return "store: PostgreSQL and Redis protocol servers (GATEHOUSE_TEST_STORE=embedded runs without)"
    return "store: SQLite and the in-process store"
