"""Requests and answers that are kept: sealed before they touch a disk, bounded, and gone with their key or their time."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from keys.context import KeyContext
from keys.models import Organization
from lib import metrics
from lib.ids import uuid7
from routing import credentials
from tests.factories import IssuedKey, make_key, make_organization
from tests.usage.events import key
from usage import bodies, body_store, upkeep
from usage.bodies import Writer
from usage.body_store import Bringing
from usage.models import StoredBody
from usage.spool import Spool

PROMPT = b'{"contents": [{"parts": [{"text": "the plan for Tuesday"}]}]}'
PICTURE = base64.b64encode(bytes(range(256)) * 40)  # 10,240 bytes


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    yield bodies.open_in(tmp_path, most=1_000)
    bodies.close()


@pytest.fixture
def logging_key(issued_key: IssuedKey) -> KeyContext:
    found = issued_key.key
    return key(key_id=str(found.pk), organization_id=str(found.organization_id), log_bodies=True)


def keep(whose: KeyContext, request: bytes = PROMPT, *pieces: bytes) -> str:
    """One call, from its beginning to its end. Its id."""
    kept = bodies.begin(whose, request)
    assert kept is not None
    for piece in pieces or (b"data: one\n\n", b"data: two\n\n"):
        kept.add(piece)
    call_id = str(uuid7())
    bodies.hand_over(kept, call_id, whose, time.time_ns() // 1_000_000)
    return call_id


def lost(reason: str) -> float:
    return float(metrics.BODIES_LOST.labels(reason)._value.get())


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def bring_in(writer: Writer) -> None:
    writer.close()  # all that was handed over is in the spool now
    Bringing(writer.spool).step()


# What is kept of it


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (b'{"inlineData": {"mimeType": "image/png", "data": "%b"}, "a": 1}', b'"data": "(image/png, 10242 bytes, not kept)"'),
        (b'{"inline_data":{"data":"%b","mime_type":"audio/wav"},"a":1}', b'"data":"(audio/wav, 10242 bytes, not kept)"'),
        (b'{"x": {"mimeType": "text/no"}, "y": {"data": "%b"}}', b'"data": "(media, 10242 bytes, not kept)"'),
        (b'{"mimeType": "image/png", "data": "%b', b'"data": "(image/png, 10242 bytes, not kept)'),
    ],
)  # fmt: skip
def test_media_leave_a_note_with_type_and_size(given: bytes, left: bytes) -> None:
    found = bodies.without_media(given % PICTURE)
    assert left in found
    before, after = given.split(b'"%b')
    assert found.startswith(before)
    assert found.endswith(after)


@pytest.mark.parametrize(
    "text",
    [
        b'{"mimeType": "image/png", "data": "%b"}' % PICTURE[:2_000],
        b'{"data": "%b"}' % (b"words that somebody wrote " * 200),
        b'{"text": "\\"data\\": \\"%b"}' % PICTURE,
        b"no JSON at all",
        b"",
    ],
)
def test_what_is_small_or_no_media_stays_to_the_byte(text: bytes) -> None:
    assert bodies.without_media(text) == text


def test_each_of_several_pictures_leaves_its_own_note() -> None:
    one = b'{"mimeType": "image/png", "data": "%b"}' % PICTURE
    assert bodies.without_media(one + b"," + one).count(b"(image/png, 10242 bytes, not kept)") == 2


@pytest.mark.django_db
def test_request_and_answer_are_sealed_on_disk_and_in_the_database_and_can_be_read_again(
    writer: Writer, logging_key: KeyContext
) -> None:
    call_id = keep(logging_key)
    writer.close()
    [path] = writer.spool.directory.glob("*.spool")
    on_disk = path.read_bytes()
    assert call_id.encode() in on_disk
    Bringing(writer.spool).step()
    row = StoredBody.objects.get(pk=call_id)
    for place in (on_disk, row.sealed.encode()):
        assert b"Tuesday" not in place
        assert base64.b64encode(PROMPT)[4:40] not in place
    found = body_store.opened(row)
    assert (found.request, found.answer) == (PROMPT.decode(), "data: one\n\ndata: two\n\n")
    assert (found.request_whole, found.answer_whole) == (True, True)
    assert row.key_id == logging_key.key_id


@pytest.mark.django_db
def test_a_stored_body_moved_to_another_call_or_tenant_does_not_open(writer: Writer, logging_key: KeyContext) -> None:
    call_id = keep(logging_key)
    bring_in(writer)
    row = StoredBody.objects.get(pk=call_id)
    for field, value in (("call_id", uuid7()), ("organization_id", "another")):
        moved = StoredBody.objects.get(pk=call_id)
        setattr(moved, field, value)
        with pytest.raises(credentials.CredentialError):
            body_store.opened(moved)
    assert body_store.opened(row).request


def test_a_key_without_the_switch_has_nothing_kept(writer: Writer) -> None:
    assert bodies.begin(key(), PROMPT) is None


def test_where_nothing_may_be_kept_the_switch_does_nothing() -> None:
    assert bodies.begin(key(log_bodies=True), PROMPT) is None


@pytest.mark.django_db
def test_what_is_too_long_is_cut_and_says_so(writer: Writer, logging_key: KeyContext) -> None:
    call_id = keep(logging_key, b"q" * 1_001, b"a" * 600, b"b" * 600, b"c")
    exact = keep(logging_key, b"q" * 1_000, b"a" * 1_000)
    bring_in(writer)
    found = body_store.opened(StoredBody.objects.get(pk=call_id))
    assert (found.request, found.request_whole) == ("q" * 1_000, False)
    assert (found.answer, found.answer_whole) == ("a" * 600 + "b" * 400, False)
    found = body_store.opened(StoredBody.objects.get(pk=exact))
    assert (found.request_whole, found.answer_whole) == (True, True)


@pytest.mark.django_db
def test_pictures_do_not_use_up_the_place_and_keys_are_masked(writer: Writer, logging_key: KeyContext) -> None:
    secret = b"gate_" + b"x" * 46
    picture = b'{"inlineData": {"mimeType": "image/png", "data": "%b"}}' % PICTURE
    call_id = keep(logging_key, picture + b" my key is " + secret, picture, b"that is " + secret)
    bring_in(writer)
    found = body_store.opened(StoredBody.objects.get(pk=call_id))
    note = '{"inlineData": {"mimeType": "image/png", "data": "(image/png, 10242 bytes, not kept)"}}'
    assert found.request == note + " my key is (a key)"
    assert found.answer == note + "that is (a key)"
    assert found.request_whole
    assert found.answer_whole


# Nobody waits for it


def test_what_waits_in_memory_is_bounded_and_the_rest_is_lost_and_counted(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MOST_HANDED", 3_000)
    whose, before = key(log_bodies=True), lost("busy")
    with writer.spool._lock:  # the disk does not answer
        for _ in range(5):
            keep(whose)
    assert lost("busy") - before == 3
    wait_until(lambda: writer._waiting == 0)
    keep(whose)
    assert lost("busy") - before == 3, "there is room again"


def test_what_waits_on_disk_is_bounded_too(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lost("disk")
    monkeypatch.setattr(bodies, "MOST_SPOOLED", 100)
    keep(key(log_bodies=True))
    keep(key(log_bodies=True))
    writer.close()
    assert lost("disk") - before == 1


def test_a_disk_that_is_full_costs_the_body_and_nothing_else(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lost("disk")
    writer.spool.directory = writer.spool.directory / "gone"
    keep(key(log_bodies=True))
    writer.close()
    assert lost("disk") - before == 1


# Into the database


@pytest.mark.django_db
def test_what_a_dead_process_left_is_adopted_once(tmp_path: Path, logging_key: KeyContext) -> None:
    bodies.open_in(tmp_path, most=1_000)
    calls = {keep(logging_key) for _ in range(3)}
    writer = bodies._writer
    assert writer is not None
    bodies.close()
    writer.spool.close()  # its locks are gone, as when it is killed
    assert list(tmp_path.glob("*.spool"))
    for _ in range(2):
        own = Spool(tmp_path)
        Bringing(own).step()
        own.close()
    assert {str(pk) for pk in StoredBody.objects.values_list("pk", flat=True)} == calls
    assert not list(tmp_path.glob("*.spool"))


@pytest.mark.django_db
def test_what_cannot_be_read_harms_nothing_else(writer: Writer, logging_key: KeyContext) -> None:
    for payload in (b"{", b"{}", b'{"call_id": "x"}', b"[]"):
        writer.spool.append(bodies.KEPT, payload)
    call_id = keep(logging_key)
    bring_in(writer)
    assert StoredBody.objects.get().pk.hex == call_id.replace("-", "")


@pytest.mark.django_db
def test_with_a_key_go_its_bodies_and_those_still_on_their_way(
    writer: Writer, logging_key: KeyContext, issued_key: IssuedKey, organization: Organization
) -> None:
    other = make_key(organization)
    others = keep(replace(logging_key, key_id=str(other.key.pk)))
    keep(logging_key)
    writer.close()
    bringing = Bringing(writer.spool)
    bringing.step()
    assert StoredBody.objects.count() == 2
    late = bodies.Handed(str(uuid7()), logging_key.organization_id, logging_key.key_id, 1, PROMPT, b"", True)
    writer._write(late)
    issued_key.key.delete()
    bringing.step()
    assert str(StoredBody.objects.get().pk) == others


@pytest.mark.django_db
def test_with_an_organization_go_its_bodies_alone(
    writer: Writer, logging_key: KeyContext, organization: Organization, stranger_key: IssuedKey
) -> None:
    stranger = stranger_key.key
    theirs = keep(replace(logging_key, key_id=str(stranger.pk), organization_id=str(stranger.organization_id)))
    keep(logging_key)
    bring_in(writer)
    organization.delete()
    assert str(StoredBody.objects.get().pk) == theirs


@pytest.mark.django_db
def test_a_body_whose_time_is_over_cannot_be_read_and_goes_with_the_upkeep(settings: Any) -> None:
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update={"body_retention_days": 3})
    now = timezone.now()
    for age in (2.9, 3.1):
        StoredBody.objects.create(
            call_id=uuid7(), organization_id="o", key_id="k", at=now - timedelta(days=age), sealed="x"
        )
    assert body_store.kept(StoredBody.objects.all(), now).count() == 1
    assert upkeep.prune(now).bodies == 1
    assert StoredBody.objects.count() == 1


async def test_with_no_days_of_retention_nothing_is_kept_at_all(data_dir: Path, settings: Any) -> None:
    settings.GATEHOUSE = settings.GATEHOUSE.model_copy(update={"body_retention_days": 0})
    await body_store.open()
    try:
        assert bodies.begin(key(log_bodies=True), PROMPT) is None
        assert not (data_dir / "bodies").exists()
    finally:
        await body_store.close()


@pytest.mark.django_db(transaction=True)
async def test_the_part_of_a_process_brings_them_in_by_itself_and_leaves_no_file(data_dir: Path) -> None:
    made = await sync_to_async(lambda: make_key(make_organization("kept")).key)()
    whose = key(key_id=str(made.pk), organization_id=str(made.organization_id), log_bodies=True)
    await body_store.open()
    call_id = keep(whose)
    await body_store.close()
    assert await StoredBody.objects.filter(pk=call_id).aexists()
    assert list((data_dir / "bodies").iterdir()) == []
