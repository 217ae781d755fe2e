"""The console's own pages in a real browser: live things are live, and what strangers write is text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction
from playwright.async_api import expect

from keys import audit, notices
from keys.models import Membership
from tests.browser.calling import call
from tests.browser.conftest import Visitor
from tests.factories import IssuedKey, make_connection, make_key, make_model, make_person
from tests.proxy_site.admin_world import World, make_bucket, make_record, make_world
from tests.proxy_site.test_console_strangers_words import PAYLOADS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def world(transactional_db: None) -> World:
    return make_world()


@pytest.fixture
def answering(world: World, upstream: Callable[[str], Any]) -> IssuedKey:
    """A key of acme, and a model `hello` that a loopback Gemini answers for; every process knows of it."""
    connection = make_connection("gemini", base_url=upstream("gemini").url)
    make_model("hello", [connection], upstream_model="gemini-2.5-flash", unpriced="serve")
    with transaction.atomic():
        notices.announce("catalog")
    return make_key(world.acme.organization, "caller")


async def test_the_playground_streams_an_answer_and_names_its_record(
    world: World, answering: IssuedKey, guest: Visitor
) -> None:
    await call(guest.site, answering.secret)
    await guest.enter("root@example.org")
    page = guest.page
    await guest.open(f"/admin/playground/?key={answering.key.pk}&model=hello")
    await expect(page.locator("select[name=model]")).to_have_value("hello")
    await page.fill("[name=prompt]", "Hello there")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator(".gh-said")).not_to_be_empty()
    await expect(page.locator("[data-facts] a")).to_be_visible()
    await page.click("[data-facts] a")
    await expect(page.get_by_text("playground", exact=True).first).to_be_visible()
    assert guest.troubles == []


async def test_who_holds_a_key_sees_its_first_request_arrive_and_nothing_of_others(
    world: World, answering: IssuedKey, guest: Visitor
) -> None:
    holder = await sync_to_async(make_person)("holder", world.acme.organization, Membership.Role.MEMBER)
    mine = await sync_to_async(make_key)(world.acme.organization, "notebook", owner=holder)
    await guest.enter("holder@example.org")
    await guest.open("/admin/my-keys/")
    await guest.page.click("text=notebook")
    await expect(guest.page.get_by_text("Waiting for the first request")).to_be_visible()
    assert await call(guest.site, mine.secret) == 200
    await expect(guest.page.get_by_text("200 OK: hello")).to_be_visible(timeout=10_000)
    troubles = list(guest.troubles)
    answer = await guest.page.goto(
        f"{guest.site}/admin/keys/virtualkey/{world.globex.rows['keys.virtualkey'].pk}/page/"
    )
    assert answer is not None
    assert answer.status == 404
    assert troubles == []


async def test_health_refreshes_itself_and_drains(world: World, answering: IssuedKey, guest: Visitor) -> None:
    assert await call(guest.site, answering.secret) == 200
    await guest.enter("root@example.org")
    await guest.open("/admin/health/?model=hello")
    await expect(guest.page.get_by_text("As of ")).to_be_visible(timeout=15_000)
    await guest.page.get_by_role("button", name="Drain").click()
    await expect(guest.page.get_by_text("draining; calls under way are finished")).to_be_visible()
    await expect(guest.page.get_by_role("button", name="Stop draining")).to_be_visible()
    assert guest.troubles == []


async def test_a_click_in_the_explorer_leads_to_the_requests_and_a_view_is_kept(world: World, guest: Visitor) -> None:
    await guest.enter("owner@example.org")
    page = guest.page
    await guest.open("/admin/usage/explorer/?range=24h&metric=requests")
    await page.select_option("select[name=group]", "key")
    await page.wait_for_url("**group=key**")
    await page.fill("input[name=name]", "By key")
    await page.click("text=Save view")
    await expect(page.get_by_role("link", name="By key", exact=True)).to_be_visible()
    await page.click("tbody td:last-child a")
    await expect(page.locator("[data-rows] tr")).to_have_count(1)
    assert guest.troubles == []


async def test_what_strangers_write_never_runs(world: World, guest: Visitor) -> None:
    await sync_to_async(written)(world)
    await guest.enter("root@example.org")
    for path in (
        "/admin/",
        "/admin/usage/requestrecord/",
        "/admin/usage/explorer/?range=24h&top=50&group=key&subgroup=label",
        "/admin/audit/",
        f"/admin/keys/virtualkey/{world.acme.rows['keys.virtualkey'].pk}/page/",
        "/admin/playground/",
    ):
        await guest.open(path)
    assert guest.troubles == []


def written(world: World) -> None:
    key = world.acme.rows["keys.virtualkey"]
    for text in PAYLOADS:
        make_record(
            world.acme, key=text, model=text, key_id=str(key.pk), http_status=500, status="INTERNAL", error=text
        )
        make_bucket(world.acme, key=text, key_id=text[:40], model=text, label=text)
        audit.record(audit.Actor(name=text, source="admin"), "key.changed", key, {text: [text, text]})
