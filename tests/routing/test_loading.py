"""Rows become the catalog: what is in it, what is left out and why, and when it is swapped."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from keys import notices
from keys.models import Organization
from routing import credentials, loading
from routing.backends import BACKENDS
from routing.backends.base import Action, Backend, Endpoint
from routing.models import Connection, Deployment, PublicModel


def make(name: str = "fast", *, organization: Organization | None = None, **connection: Any) -> Deployment:
    place = Connection(name=f"at-{name}", kind="openai", base_url="http://127.0.0.1:9/v1/", allow_private=True)
    for field, value in connection.items():
        setattr(place, field, value)
    credentials.seal(place, {"api_key": "sk-0123456789abcdef"})
    place.save()
    model = PublicModel.objects.create(name=name, organization=organization, aliases=[f"{name}-alias"])
    return Deployment.objects.create(model=model, connection=place, upstream_model="gpt-4o")


@pytest.mark.django_db
def test_a_deployment_is_in_the_catalog_with_its_credential_opened_and_its_base_url_without_a_slash() -> None:
    row = make(options={"organization": "org-1", "n": 3, "yes": True})
    model = loading.load().resolve("fast-alias", "any")
    assert model is not None
    (entry,) = model.deployments
    assert entry.id == str(row.pk)
    assert entry.endpoint.base_url == "http://127.0.0.1:9/v1"
    assert entry.endpoint.credential == {"api_key": "sk-0123456789abcdef"}
    assert entry.endpoint.options == {"organization": "org-1", "n": "3", "yes": "true"}
    assert len(entry.endpoint.scope) == 16
    assert "sk-0123456789abcdef" not in repr(entry)


@pytest.mark.django_db
def test_what_is_disabled_is_not_in_the_catalog() -> None:
    row = make()
    Deployment.objects.update(enabled=False)
    assert loading.load().resolve("fast", "any").deployments == ()  # type: ignore[union-attr]  # it is there
    Deployment.objects.update(enabled=True)
    Connection.objects.update(enabled=False)
    assert loading.load().deployments == {}
    Connection.objects.update(enabled=True)
    assert set(loading.load().deployments) == {str(row.pk)}
    PublicModel.objects.update(enabled=False)
    assert loading.load().resolve("fast", "any") is None


@pytest.mark.django_db
def test_time_outs_come_from_the_deployment_then_the_model_then_the_settings(settings: Any) -> None:
    row = make()
    site = settings.GATEHOUSE
    PublicModel.objects.update(first_byte_timeout=7.0, idle_timeout=8.0)
    Deployment.objects.update(idle_timeout=9.0)
    found = loading.load().deployments[str(row.pk)].timeouts
    assert (found.connect, found.first_byte, found.idle, found.total) == (
        site.upstream_connect_timeout, 7.0, 9.0, site.upstream_total_timeout,
    )  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sealed_credential": "v1|00000000|AAAA|AAAA"}, "not among GATEHOUSE_ENCRYPTION_KEYS"),
        ({"sealed_credential": "nonsense"}, "not a sealed value"),
        ({"kind": "no-such-kind"}, "no backend of kind"),
        ({"allow_private": False}, "private network"),
        ({"base_url": "http://169.254.169.254/v1"}, "metadata"),
    ],
)
def test_one_bad_row_costs_only_its_own_deployment(
    change: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make("good"), make("bad")
    Connection.objects.filter(pk=bad.connection_id).update(**change)
    with caplog.at_level(logging.ERROR):
        catalog = loading.load()
    assert set(catalog.deployments) == {str(good.pk)}
    assert why in catalog.unusable[str(bad.pk)]
    assert why in caplog.text
    assert "sk-0123" not in caplog.text


@pytest.mark.django_db
def test_a_connection_of_one_organization_does_not_answer_for_everybodys_model(organization: Organization) -> None:
    row = make("theirs", organization=organization)
    Connection.objects.update(organization=organization)
    Connection.objects.update(sealed_credential="")
    place = Connection.objects.get()
    credentials.seal(place, {"api_key": "sk-0123456789abcdef"})
    place.save()
    assert set(loading.load().deployments) == {str(row.pk)}
    PublicModel.objects.update(organization=None)
    assert "another organization" in loading.load().unusable[str(row.pk)]


@pytest.mark.django_db
def test_the_version_changes_with_the_deployment_and_only_then() -> None:
    one, two = make("one"), make("two")
    before = loading.load().deployments
    Deployment.objects.filter(pk=one.pk).update(weight=5)
    after = loading.load().deployments
    assert before[str(one.pk)].version != after[str(one.pk)].version
    assert before[str(two.pk)].version == after[str(two.pk)].version


@pytest.mark.django_db
def test_without_open_the_catalog_is_read_on_first_use_and_again_after_a_notice(
    django_capture_on_commit_callbacks: Any,
) -> None:
    assert loading.current().models == ()
    make()
    assert loading.current().models == ()
    with django_capture_on_commit_callbacks(execute=True):
        notices.announce("catalog")
    assert [model.name for model in loading.current().models] == ["fast"]


@pytest.mark.django_db(transaction=True)
async def test_an_open_catalog_swaps_on_a_notice_and_stays_when_the_database_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await loading.open()
    try:
        assert loading.current().models == ()
        await asyncio.to_thread(make)
        await asyncio.to_thread(notices.announce, "catalog")
        async with asyncio.timeout(10):
            while not loading.current().models:  # noqa: ASYNC110 - nothing tells of a swap
                await asyncio.sleep(0.01)  # the swap is silent on purpose
        old = loading.current()

        def gone() -> Any:
            raise OperationalError("the database is gone")

        with monkeypatch.context() as patch:
            patch.setattr(loading, "load", gone)
            with pytest.raises(OperationalError):
                await loading.reload()
        assert loading.current() is old
    finally:
        await loading.close()


@pytest.mark.django_db(transaction=True)
async def test_current_works_inside_a_running_loop_without_open() -> None:
    await asyncio.to_thread(make)
    assert [model.name for model in loading.current().models] == ["fast"]


class Slow(Backend):
    """A kind that needs a large package, and remembers which thread had to get it."""

    label = "Slow"
    language = "chat_completions"
    warmed: list[int]

    def __init__(self) -> None:
        self.warmed = []

    def warm_up(self) -> None:
        self.warmed.append(threading.get_ident())

    def url(self, endpoint: Endpoint, action: Action) -> str:
        return endpoint.base_url


@pytest.mark.django_db(transaction=True)
async def test_what_the_kinds_in_use_need_is_imported_beside_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    used, unused = Slow(), Slow()
    monkeypatch.setitem(BACKENDS, "slow", used)
    monkeypatch.setitem(BACKENDS, "slower", unused)
    await sync_to_async(make)(kind="slow")
    await loading.open()
    await loading.close()
    assert len(used.warmed) == 1
    assert used.warmed[0] != threading.get_ident()
    assert unused.warmed == []


# What a first signed call and a first stream import after `warm_up`. In a process of its own, which knows nothing yet.
FIRST_CALL = """
import asyncio, sys
from routing.backends.base import Endpoint
from routing.backends.bedrock import backend
from routing.backends import vertex
from routing.framing import EventStreamDecoder
backend.warm_up()
vertex.backend.warm_up()
before = set(sys.modules)
keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}
place = Endpoint(
    kind="bedrock", base_url="", model="amazon.nova-pro-v1:0", connection_id="c", options={"region": "us-east-1"},
    credential=keys, headers={}, allow_private=False, scope="s",
)
asyncio.run(backend.prepare(place, {}, "stream"))
EventStreamDecoder()
import google.auth, google.auth.exceptions, google.oauth2.service_account
print([name for name in set(sys.modules) - before if name.startswith(("botocore", "google"))])
"""


def test_a_warm_kind_imports_nothing_more_with_its_first_call() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
