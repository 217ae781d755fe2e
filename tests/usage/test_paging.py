"""Pages of the request log: every row once, in order, whichever way one goes and however little time there is."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from lib.ids import uuid7
from usage import paging
from usage.models import RequestRecord
from usage.paging import PAGE, Page

pytestmark = pytest.mark.django_db
END = datetime(2026, 11, 20, 12, tzinfo=UTC)
START = END - timedelta(days=1)


@pytest.fixture
def ids(db: None) -> list[uuid.UUID]:
    """Calls of a day, the newest first; every seventh is of a rare model. One lies on each edge of the range."""
    times = [END - timedelta(minutes=10 * number, milliseconds=1) for number in range(143)]
    rows = [
        RequestRecord(
            id=uuid7(int(at.timestamp() * 1000)),
            started_at=at,
            organization_id="o",
            key_id="k",
            model="rare" if number % 7 == 0 else "usual",
            http_status=200,
            status="OK",
        )
        for number, at in enumerate([*times, START, START - timedelta(milliseconds=1), END])
    ]
    RequestRecord.objects.bulk_create(rows)
    return [row.id for row in rows[:144]]


def walk(
    step: str, budget: float, begin: uuid.UUID | None = None, **filters: str
) -> tuple[list[uuid.UUID], list[Page]]:
    """All ids from the first page to the last one, and the pages."""
    records, at = RequestRecord.objects.filter(**filters), begin
    seen: list[uuid.UUID] = []
    pages: list[Page] = []
    while at is not None or not pages:
        given = {("before" if step == "older" else "after"): at}
        pages.append(paging.page(records, START, END, budget=budget, **given))
        found = [row.id for row in pages[-1].rows]
        seen = [*seen, *found] if step == "older" else [*found, *seen]
        going_on = getattr(pages[-1], step)
        at = uuid.UUID(going_on) if going_on else None
    return seen, pages


@pytest.mark.parametrize("budget", [60.0, 0.0])
def test_every_row_is_met_once_on_the_way_back(ids: list[uuid.UUID], budget: float) -> None:
    seen, pages = walk("older", budget)
    assert seen == ids
    assert all(len(page.rows) <= PAGE for page in pages)


@pytest.mark.parametrize("budget", [60.0, 0.0])
def test_every_row_is_met_once_on_the_way_forward(ids: list[uuid.UUID], budget: float) -> None:
    seen, _pages = walk("newer", budget, begin=ids[-1])
    assert seen == ids[:-1]


def test_with_time_enough_pages_are_full_and_none_says_it_looked_only_so_far(ids: list[uuid.UUID]) -> None:
    _seen, pages = walk("older", 60.0)
    assert [len(page.rows) for page in pages] == [PAGE, PAGE, 44]
    assert [page.looked for page in pages] == [None, None, None]
    assert pages[0].newer == ""
    assert pages[1].newer == str(ids[PAGE])


def test_without_time_a_page_ends_early_tells_how_far_it_looked_and_goes_on_from_there(ids: list[uuid.UUID]) -> None:
    page = paging.page(RequestRecord.objects.filter(model="nowhere"), START, END, budget=0.0)
    assert page.rows == []
    assert page.looked is not None and START < page.looked < END
    assert paging.moment(uuid.UUID(page.older)) == page.looked


@pytest.mark.parametrize("budget", [60.0, 0.0])
def test_few_that_fit_are_found_all_the_same(ids: list[uuid.UUID], budget: float) -> None:
    rare = [found for number, found in enumerate(ids) if number % 7 == 0]
    assert walk("older", budget, model="rare")[0] == rare
    assert walk("newer", budget, begin=paging.bound(START - timedelta(minutes=1)), model="rare")[0] == [
        *rare,
        *RequestRecord.objects.filter(pk__lt=paging.bound(START), model="rare").values_list("pk", flat=True),
    ]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite cannot be stopped in the middle of a query")
def test_a_window_that_takes_too_long_ends_the_page_before_it_and_loses_nothing(ids: list[uuid.UUID]) -> None:
    slow = RequestRecord.objects.filter(pk__in=ids[20:25])
    page = paging.page(slow.extra(where=["pg_sleep(5) IS NOT NULL"]), START, END)
    assert page.rows == []
    assert page.looked is not None
    assert page.looked > paging.moment(ids[20])
    following = paging.page(slow, START, END, before=uuid.UUID(page.older), budget=60.0)
    assert [row.id for row in following.rows] == ids[20:25]
