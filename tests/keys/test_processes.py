"""What one process changes, another hears; and what it does when the database is gone. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings
from django.db import connection

from keys import issue
from keys.models import Organization
from tests.keys.relay import Cable

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Other:
    """A second process; see other_process.py."""

    process: subprocess.Popen[str]

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def ask(self, secret: str) -> str:
        return self.say(secret).split()[0]

    def comes_to_say(self, secret: str, expected: str) -> bool:
        """Within ten seconds; a working bus needs a hundredth of one, polling half a second."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.ask(secret) == expected:
                return True
        return False


def database_url() -> str:
    """The test database, for a process that knows nothing of tests."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


@pytest.fixture(scope="module")
def _cable(django_db_setup: None) -> Iterator[Cable | None]:
    if connection.vendor != "postgresql":
        yield None
        return
    with Cable.to(database_url()) as cable:
        yield cable


@pytest.fixture(scope="module")
def _others(_cable: Cable | None) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.keys.other_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"DATABASE_URL": _cable.url if _cable else database_url()}
        | {"GATEHOUSE_PEPPER": settings.GATEHOUSE_PEPPER, "LOG_LEVEL": "ERROR"},
    ) as process:
        yield process
        process.kill()


Begin = Callable[..., AbstractContextManager[Other]]


@pytest.fixture
def other_process(_others: subprocess.Popen[str]) -> Begin:
    """Begins one, on the test database: with this bus, or with polling alone."""

    @contextmanager
    def begin(redis_url: str = "", stale: float = 7200) -> Iterator[Other]:
        other = Other(_others)
        assert other.say(json.dumps({"bus_url": redis_url, "stale": stale})) == "ready"
        try:
            yield other
        finally:
            assert other.say("") == "ended 0"

    return begin


@pytest.fixture
def cable(_cable: Cable | None) -> Iterator[Cable]:
    """What the second process has its database through."""
    if _cable is None:
        pytest.skip("this run is embedded: no database server to lose")
    yield _cable
    _cable.cut()
    _cable.mend()


def test_a_key_revoked_here_is_refused_there_over_the_bus(
    organization: Organization, redis_url: str, other_process: Begin
) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    _, kept = issue.issue(organization=organization, name="kept")
    with other_process(redis_url) as other:
        assert (other.ask(secret), other.ask(kept)) == ("known", "known")
        issue.revoke(key)
        assert other.comes_to_say(secret, "revoked")
        assert other.ask(kept) == "known"


def test_a_key_revoked_here_is_refused_there_by_polling_alone(organization: Organization, other_process: Begin) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    with other_process() as other:
        assert other.ask(secret) == "known"
        issue.revoke(key)
        assert other.comes_to_say(secret, "revoked")


def test_a_key_issued_here_is_known_there_although_it_was_refused_before(
    organization: Organization, other_process: Begin
) -> None:
    from keys import secrets  # noqa: PLC0415 - beside the one use

    secret = secrets.make()
    with other_process() as other:
        assert other.ask(secret) == "unknown"
        issue.issue(organization=organization, name="ci", secret=secret)
        assert other.comes_to_say(secret, "known")


def test_without_the_database_known_keys_are_served_and_unknown_ones_are_unavailable(
    organization: Organization, cable: Cable, other_process: Begin
) -> None:
    _, known = issue.issue(organization=organization, name="known")
    _, unknown = issue.issue(organization=organization, name="unknown")
    with other_process() as other:
        assert other.ask(known) == "known"
        cable.cut()
        assert other.ask(unknown) == "unavailable"
        assert other.ask(known) == "known"
        other.say("!suspect")  # although anything may have changed: nobody can tell
        assert other.ask(known) == "known"
        cable.mend()
        assert other.comes_to_say(unknown, "known")
        assert other.ask(known) == "known"


def test_a_known_key_is_not_served_for_longer_than_the_stated_bound(
    organization: Organization, cable: Cable, other_process: Begin
) -> None:
    _, known = issue.issue(organization=organization, name="known")
    with other_process(stale=0) as other:
        assert other.ask(known) == "known"
        cable.cut()
        other.say("!suspect")
        assert other.comes_to_say(known, "unavailable")
