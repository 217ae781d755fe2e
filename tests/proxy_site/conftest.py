"""Two tenants for every file that asks, made once a file."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
from django.db import connection, transaction
from pytest_django.plugin import DjangoDbBlocker

from tests.proxy_site.admin_world import World, make_world


@pytest.fixture(scope="module")
def made_once(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[World]:
    """In a transaction around those of the file's tests, which is never committed either."""
    with django_db_blocker.unblock():
        around = transaction.atomic()
        around.__enter__()
        world = make_world()
        connection.check_constraints()  # once, and not after every test anew
    yield world
    with django_db_blocker.unblock():
        transaction.set_rollback(True)
        around.__exit__(None, None, None)


@pytest.fixture
def tenants(made_once: World, db: None) -> World:
    """As they were made: what other tests did to the rows is rolled back, and these objects are this test's alone."""
    return deepcopy(made_once)
