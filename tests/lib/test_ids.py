"""Ids: version 7, in the order of their milliseconds, as an object and as text."""

from __future__ import annotations

import time
import uuid

from lib.ids import uuid7, uuid7_ms, uuid7_text


def test_an_id_as_text_is_a_version_7_uuid_of_this_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    text = uuid7_text()
    after = time.time_ns() // 1_000_000
    read = uuid.UUID(text)
    assert (str(read), read.version, read.variant) == (text, 7, uuid.RFC_4122)
    assert before <= uuid7_ms(read) <= after


def test_ids_as_text_do_not_repeat_and_sort_with_those_that_are_objects() -> None:
    assert len({uuid7_text() for _ in range(1_000)}) == 1_000
    early = str(uuid7(time.time_ns() // 1_000_000 - 1_000))
    late = str(uuid7(time.time_ns() // 1_000_000 + 1_000))
    assert early < uuid7_text() < late
