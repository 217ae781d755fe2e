"""What one process changes, another hears; and what it does when the database is gone. Real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.conf import settings
from django.db import connection

from keys import issue
from keys.models import Organization
from tests.keys.relay import Cable

pytestmark = pytest.mark.django_db(transaction=True)


class Other:
    """A second process; see other_process.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def ask(self, secret: str) -> str:
        return self.say(secret).split()[0]

    def comes_to_say(self, secret: str, expected: str) -> bool:
        """Within ten seconds; a working bus needs a hundredth of one, polling half a second."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.ask(secret) == expected:
                return True
        return False


@contextmanager
def other_process(redis_url: str, database_url: str, **environment: str) -> Iterator[Other]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.keys.other_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"BUS_REDIS_URL": redis_url, "REDIS_URL": redis_url, "DATABASE_URL": database_url}
        | {"GATEHOUSE_PEPPER": settings.GATEHOUSE_PEPPER, "LOG_LEVEL": "ERROR"}
        | environment,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "ready"
            yield Other(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


def database_url() -> str:
    """The test database, for a process that knows nothing of tests."""
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


def test_a_key_revoked_here_is_refused_there_over_the_bus(organization: Organization, redis_url: str) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    _, kept = issue.issue(organization=organization, name="kept")
    with other_process(redis_url, database_url()) as other:
        assert (other.ask(secret), other.ask(kept)) == ("known", "known")
        issue.revoke(key)
        assert other.comes_to_say(secret, "revoked")
        assert other.ask(kept) == "known"


def test_a_key_revoked_here_is_refused_there_by_polling_alone(organization: Organization) -> None:
    key, secret = issue.issue(organization=organization, name="ci")
    with other_process("", database_url()) as other:
        assert other.ask(secret) == "known"
        issue.revoke(key)
        assert other.comes_to_say(secret, "revoked")


def test_a_key_issued_here_is_known_there_although_it_was_refused_before(organization: Organization) -> None:
    from keys import secrets  # noqa: PLC0415 - beside the one use

    secret = secrets.make()
    with other_process("", database_url()) as other:
        assert other.ask(secret) == "unknown"
        issue.issue(organization=organization, name="ci", secret=secret)
        assert other.comes_to_say(secret, "known")


@pytest.fixture
def cable() -> Iterator[Cable]:
    if connection.vendor != "postgresql":
        pytest.skip("this run is embedded: no database server to lose")
    with Cable.to(database_url()) as cable:
        yield cable


def test_without_the_database_known_keys_are_served_and_unknown_ones_are_unavailable(
    organization: Organization, cable: Cable
) -> None:
    _, known = issue.issue(organization=organization, name="known")
    _, unknown = issue.issue(organization=organization, name="unknown")
    with other_process("", cable.url) as other:
        assert other.ask(known) == "known"
        cable.cut()
        assert other.ask(unknown) == "unavailable"
        assert other.ask(known) == "known"
        other.say("!suspect")  # although anything may have changed: nobody can tell
        assert other.ask(known) == "known"
        cable.mend()
        assert other.comes_to_say(unknown, "known")
        assert other.ask(known) == "known"


def test_a_known_key_is_not_served_for_longer_than_the_stated_bound(organization: Organization, cable: Cable) -> None:
    _, known = issue.issue(organization=organization, name="known")
    with other_process("", cable.url, STALE_SECONDS="0") as other:
        assert other.ask(known) == "known"
        cable.cut()
        other.say("!suspect")
        assert other.comes_to_say(known, "unavailable")
