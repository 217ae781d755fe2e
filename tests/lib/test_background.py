"""Work beside the calls: goes on after its own failures, ends when told to, hears of notices from any thread."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.db import OperationalError

from lib.background import Background, Following, cancelled


class Work:
    """Rounds that fail as often as they are told to; `enough` is set with the last one waited for."""

    def __init__(self, rounds: int, *failures: Exception) -> None:
        self.rounds = 0
        self.failures = list(failures)
        self.enough = asyncio.Event()
        self._wanted = rounds

    async def __call__(self) -> None:
        self.rounds += 1
        if self.rounds >= self._wanted:
            self.enough.set()
        if self.failures:
            raise self.failures.pop(0)


async def test_rounds_follow_each_other_until_it_is_closed_and_after_it_is_opened_again() -> None:
    work = Work(3)
    background = Background("rounds", work)
    for _ in range(2):
        work.enough.clear()
        await background.open()
        await asyncio.wait_for(work.enough.wait(), 10)
        await background.close()
        seen = work.rounds
        await asyncio.sleep(0)
        assert work.rounds == seen
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "rounds"]
    await background.close()


async def test_opened_twice_it_is_one_task() -> None:
    background = Background("one", Work(1))
    await background.open()
    await background.open()
    assert len([task for task in asyncio.all_tasks() if task.get_name() == "one"]) == 1
    await background.close()


async def test_a_failure_is_told_and_the_next_round_comes(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(3, OperationalError("with a password in it"), ZeroDivisionError("ours"))
    background = Background("keeping on", work, again=0.001)
    await background.open()
    await asyncio.wait_for(work.enough.wait(), 10)
    await background.close()
    assert work.rounds >= 3
    database, ours = [record for record in caplog.records if "keeping on failed" in record.getMessage()]
    assert "password" not in caplog.text
    assert not database.exc_info
    assert ours.exc_info, "a fault of ours is told with its place"


async def test_the_first_round_waits_if_it_is_to() -> None:
    work = Work(1)
    background = Background("later", work, first=3600)
    await background.open()
    await asyncio.sleep(0)
    await background.close()
    assert work.rounds == 0


async def test_closing_waits_for_the_end_of_the_round_it_breaks_off() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    background = Background("long", work)
    await background.open()
    await begun.wait()
    await background.close()
    assert ended.is_set()


async def test_a_notice_is_answered_from_any_thread_and_from_before_it_was_open() -> None:
    work = Work(1)
    following = Following("following", work)
    following.notice("early")
    for _ in range(2):
        await following.open()
        await asyncio.wait_for(work.enough.wait(), 10)
        work.enough.clear()
        thread = threading.Thread(target=following.notice)
        thread.start()
        await asyncio.wait_for(work.enough.wait(), 10)
        thread.join()
        await following.close()
        work.enough.clear()
        following.notice()
    assert work.rounds == 4


async def test_without_a_notice_nothing_is_done() -> None:
    work = Work(1)
    following = Following("quiet", work)
    await following.open()
    for _ in range(5):
        await asyncio.sleep(0)
    await following.close()
    assert work.rounds == 0


async def test_notices_that_come_meanwhile_make_one_more_round() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    rounds = 0

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        begun.set()
        await go_on.wait()

    following = Following("busy", work)
    await following.open()
    following.notice()
    await begun.wait()
    for _ in range(5):
        following.notice()
    go_on.set()
    for _ in range(20):
        await asyncio.sleep(0)
    await following.close()
    assert rounds == 2


async def test_an_answer_that_failed_is_given_again_without_another_notice() -> None:
    work = Work(3, OSError(), OSError())
    following = Following("stubborn", work, again=0.001)
    await following.open()
    following.notice()
    await asyncio.wait_for(work.enough.wait(), 10)
    await following.close()
    assert work.rounds == 3


async def test_tasks_that_end_badly_are_ended_all_the_same() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancelled(task)
    assert task.done()
    await cancelled()
