"""What every test may ask for: three people, a key, upstreams on loopback, and no network beyond it."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_django.plugin import DjangoDbBlocker

from keys.models import Membership, Organization, User
from routing import loading
from tests.factories import IssuedKey, make_key, make_organization, make_person, make_platform_admin


@pytest.fixture(autouse=True)
def _no_catalog_yet() -> None:
    """Rows that tests make announce nothing: a catalog that an earlier test loaded would never hear of them."""
    loading.forget()


# ── the people: an owner, a colleague in the same organization, and a stranger from another ──


@pytest.fixture
def organization(db: None) -> Organization:
    return make_organization("acme")


@pytest.fixture
def stranger_organization(db: None) -> Organization:
    return make_organization("globex")


@pytest.fixture
def platform_admin(db: None) -> User:
    return make_platform_admin()


@pytest.fixture
def owner(organization: Organization) -> User:
    return make_person("owner", organization, Membership.Role.OWNER)


@pytest.fixture
def colleague(organization: Organization) -> User:
    return make_person("colleague", organization, Membership.Role.MEMBER)


@pytest.fixture
def stranger(stranger_organization: Organization) -> User:
    return make_person("stranger", stranger_organization, Membership.Role.OWNER)


@pytest.fixture
def issued_key(organization: Organization) -> IssuedKey:
    """A key of `organization` that may use every model."""
    return make_key(organization)


@pytest.fixture
def stranger_key(stranger_organization: Organization) -> IssuedKey:
    return make_key(stranger_organization)


# ── the vendors, on loopback ──


@pytest.fixture(scope="session")
def _running_upstreams() -> Iterator[Callable[[str], Any]]:
    from tests.upstreams.serve import UPSTREAMS, serve  # noqa: PLC0415 - vendors' libraries, for those who need them

    started: dict[str, Any] = {}
    with ExitStack() as stack:

        def start(name: str) -> Any:
            if name not in started:
                started[name] = stack.enter_context(serve(UPSTREAMS[name]()))
            return started[name]

        yield start


@pytest.fixture
def upstream(_running_upstreams: Callable[[str], Any]) -> Callable[[str], Any]:
    """`upstream("openai")`: that vendor, running, with nothing remembered. The names are those in tests/upstreams/serve.py."""

    def take(name: str) -> Any:
        running = _running_upstreams(name)
        running.forget()
        return running

    return take


# ── the store ──


@pytest.fixture
def redis_url() -> str:
    """The Redis of this run (a logical database per worker). Skips where the run is embedded."""
    url = os.environ.get("REDIS_URL", "")
    if not url:
        pytest.skip("this run is embedded: no Redis")
    return url


@pytest.fixture
def data_dir(tmp_path: Path, settings: Any) -> Path:
    """An empty data directory, for this test alone."""
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update={"data_dir": tmp_path})
    settings.DATA_DIR = tmp_path
    return tmp_path


# ── the database ──


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Each test has days of its own."""
    from usage import closed_days  # noqa: PLC0415 - Django is set up only now

    closed_days.forget()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite in a file, as in production: the in-memory one cannot be shared between threads without locking errors."""
    from django.db import connections  # noqa: PLC0415 - Django is set up only now

    connection = connections["default"]
    if connection.vendor == "sqlite":
        name = f"{os.environ['GATEHOUSE_DATA_DIR']}/tests.sqlite3"
        connection.settings_dict["TEST"]["NAME"] = name


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Connections that threads left open would hold up the removal of the test database, so they are ended first."""
    from django.db import connection  # noqa: PLC0415 - Django is set up only now

    if connection.vendor == "postgresql":
        connection.ops.sql_flush = partial(_deletions, connection)
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        connection.close()


def _deletions(connection: Any, _style: Any, tables: list[str], **_: Any) -> list[str]:
    """How a test that commits is cleaned up after. A few rows are deleted in a hundredth of the time that TRUNCATE takes
    to make new files for every table and index."""
    return [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]


# ── the network ──


def _refuse_strangers(connecting: socket.socket, address: object) -> None:
    if not _is_ours(address):
        connecting.close()
        raise AssertionError(f"a test wanted to connect to {address!r}")


def _is_ours(address: object) -> bool:
    if not isinstance(address, tuple):  # a Unix socket
        return True
    host = str(address[0])
    if host in ALLOWED_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# A developer's own Redis may stand elsewhere. (PostgreSQL's client is written in C and does not pass here.)
ALLOWED_HOSTS = {urlsplit(url).hostname for name in ("REDIS_URL",) if (url := os.environ.get(name))}


@pytest.fixture(scope="session", autouse=True)
def no_outside_network() -> Iterator[None]:
    """A test that reaches for the Internet fails at once, with the address it wanted."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: Any) -> None:
        _refuse_strangers(self, address)
        return connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        _refuse_strangers(self, address)
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded_ex)
        yield


# ── people ──


def pytest_configure() -> None:
    """Passwords of people that tests make are hashed a thousand times, not a million: a site checks them all the same."""
    from django.contrib.auth.hashers import PBKDF2PasswordHasher  # noqa: PLC0415 - Django is set up only now

    PBKDF2PasswordHasher.iterations = 1_000
