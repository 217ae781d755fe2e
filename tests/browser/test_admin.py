"""The admin in a real browser: what people click through."""

from __future__ import annotations

import re

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import expect

from tests.browser.conftest import Visitor
from tests.proxy_site.admin_world import World, make_world

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SECRET = re.compile(r"gate_[0-9A-Za-z]{46}")


@pytest.fixture
def world(transactional_db: None) -> World:
    return make_world()


async def test_a_key_is_made_in_three_fields_and_its_secret_is_gone_on_reload(world: World, guest: Visitor) -> None:
    await guest.enter("root@example.org")
    await guest.open("/admin/keys/virtualkey/add/")
    page = guest.page
    await page.fill("#id_name", "notebook")
    await page.select_option("#id_belongs_to", label="acme organization / acme team")
    await expect(page.locator("input[name=access]").first).to_be_hidden()
    await page.click("text=More options")
    await expect(page.locator("#id_allowed_models")).to_be_hidden()
    await page.check("input[name=access][value=these]")
    await page.fill("#id_allowed_models", "acme-*")
    await expect(page.get_by_text("Matches 1 of 1 models")).to_be_visible()
    await page.click("button[name=_save], input[name=_save]")
    await page.wait_for_url("**/secret/")
    secret = SECRET.search(await page.inner_text("[data-secret]"))
    assert secret
    assert secret.group() in await page.inner_text("pre >> nth=0")
    async with page.expect_download() as download:
        await page.click("text=Download .env")
    path = await (await download.value).path()
    assert f"GEMINI_API_KEY={secret.group()}" in path.read_text()
    await page.reload()
    assert not SECRET.search(await page.content())
    await guest.open("/admin/keys/virtualkey/")
    assert secret.group() not in await page.content()
    assert guest.troubles == []
    assert await sync_to_async(lambda: world.acme.organization.keys.filter(name="notebook").get().allowed_models)() == [
        "acme-*"
    ]


async def test_a_credential_goes_in_and_is_nowhere_to_be_seen(world: World, guest: Visitor) -> None:
    await guest.enter("root@example.org")
    page, credential = guest.page, "sk-never-to-be-seen-0123456789abcdef"
    await guest.open("/admin/routing/connection/add/?kind=openai")
    await page.fill("#id_name", "main")
    await page.fill("#id_credential_api_key", credential)
    await page.click("button[name=_save], input[name=_save]")
    await page.wait_for_url("**/change/**")
    changed = page.url
    for address in (f"{guest.site}/admin/routing/connection/", f"{guest.site}/admin/keys/auditevent/", changed):
        assert "never-to-be-seen" not in await page.content()
        await page.goto(address)
    assert "never-to-be-seen" not in await page.content()
    await expect(page.get_by_text("…cdef").first).to_be_visible()
    await page.fill("#id_base_url", "https://elsewhere.example/v1")
    await page.click("button[name=_save], input[name=_save]")
    await expect(page.get_by_text("the credential was cleared")).to_be_visible()


async def test_a_connection_that_nobody_answers_is_told_beside_the_button(world: World, guest: Visitor) -> None:
    connection = world.acme.rows["routing.connection"]
    connection.base_url = "http://127.0.0.1:9/v1"
    await sync_to_async(connection.save)()
    await guest.enter("root@example.org")
    await guest.open(f"/admin/routing/connection/{connection.pk}/change/")
    await guest.page.click("text=Test connection")
    await expect(guest.page.locator("[data-test-answer].gh-bad")).to_be_visible()


async def test_a_member_finds_their_own_tenant_alone(world: World, guest: Visitor) -> None:
    await guest.enter("owner@example.org")
    for path in ("/admin/", "/admin/keys/virtualkey/", "/admin/usage/requestrecord/"):
        await guest.open(path)
        content = await guest.page.content()
        assert "acme" in content
        assert "globex" not in content
    await guest.open(f"/admin/keys/virtualkey/{world.globex.rows['keys.virtualkey'].pk}/change/")
    assert "acme" not in await guest.page.content()
    assert "globex" not in await guest.page.content()
