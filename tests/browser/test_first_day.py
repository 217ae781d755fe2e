"""From an empty installation to a key that was used, rotated and revoked: everything clicked, nothing prepared."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from keys.models import User
from tests.browser.calling import call
from tests.browser.conftest import Visitor
from tests.factories import make_platform_admin

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

SECRET = re.compile(r"gate_[0-9A-Za-z]{46}")


@pytest.fixture
def administrator(transactional_db: None) -> User:
    return make_platform_admin()


async def save(page: Page) -> None:
    await page.click("button[name=_save], input[name=_save]")


async def test_an_administrator_s_first_day(
    administrator: User, upstream: Callable[[str], Any], guest: Visitor
) -> None:
    page, site = guest.page, guest.site
    await guest.sign_in(administrator.email)
    steps = page.locator(".gh-steps > li")
    await expect(steps).to_have_count(6)
    await expect(page.locator(".gh-steps > li.gh-done")).to_have_count(0)

    await connect(guest, upstream("gemini").url)
    await publish(page)
    await guest.open("/admin/")
    await expect(page.locator(".gh-steps > li.gh-done")).to_have_count(3)

    first = await issue(guest)
    key_page = page.url
    assert await call(site, first) == 200
    await guest.open("/admin/usage/requestrecord/?model=hello&live=1")
    await expect(page.locator("[data-rows] tr")).to_have_count(1)
    await expect(page.locator("[data-live] .gh-ok")).to_be_visible()
    assert await call(site, first) == 200
    await expect(page.locator("[data-rows] tr")).to_have_count(2)
    await page.click("[data-rows] tr >> nth=0 >> a >> nth=0")
    await expect(page.get_by_role("heading", name=re.compile("^Attempts"))).to_be_visible()
    await guest.open("/admin/?range=1h")
    await expect(page.locator("a.gh-card", has_text="Requests").locator("strong")).to_have_text("2")
    await expect(steps).to_have_count(0)

    await page.goto(key_page)
    second = await rotate(page, first)
    assert [await call(site, each) for each in (first, second)] == [200, 200]
    await page.goto(key_page)
    await expect(page.locator("td", has_text="in 59 min")).to_be_visible()
    await revoke(page)
    assert [await call(site, each, until=400) for each in (first, second)] == [400, 400]
    assert guest.troubles == []


async def connect(guest: Visitor, url: str) -> None:
    """Add a connection and test it."""
    page = guest.page
    await page.click("text=Add a connection")
    await page.click("a[href='?kind=gemini']")
    await page.fill("#id_name", "google")
    await page.fill("#id_base_url", url)
    await page.fill("#id_credential_api_key", "upstream-key")
    await page.click("text=More options")
    await page.locator("label[for=id_allow_private], #id_allow_private").last.click()
    await save(page)
    await page.wait_for_url("**/change/")
    await page.fill("[name=upstream_model]", "gemini-2.5-flash")
    await page.click("text=Test connection")
    await expect(page.locator("[data-test-answer].gh-good")).to_be_visible(timeout=20_000)


async def publish(page: Page) -> None:
    """A model with a deployment behind it."""
    await page.click("#nav-sidebar-apps a[href$='/publicmodel/']")
    await page.click("text=New model >> nth=0")
    await page.fill("#id_name", "hello")
    await page.click("text=Add another Deployment")
    await page.select_option("#id_deployments-0-connection", label="google")
    await page.fill("#id_deployments-0-upstream_model", "gemini-2.5-flash")
    await save(page)
    await page.wait_for_url("**/publicmodel/")


async def issue(guest: Visitor) -> str:
    """An organization and a key in it; its secret, which a second look does not show. Ends on the key's page."""
    page = guest.page
    await guest.open("/admin/keys/organization/add/")
    await page.locator("#id_name").press_sequentially("Acme")
    await expect(page.locator("#id_slug")).to_have_value("acme")
    await save(page)
    await page.wait_for_url("**/organization/")
    await guest.open("/admin/keys/virtualkey/add/")
    await page.fill("#id_name", "notebook")
    await page.select_option("#id_preset", "development")
    await save(page)
    await page.wait_for_url("**/secret/")
    secret = (await page.inner_text("[data-secret]")).strip()
    assert SECRET.fullmatch(secret)
    await page.reload()
    assert secret not in await page.content()
    await expect(page.get_by_text("Waiting for the first request")).to_be_visible()
    await page.click("text=Key page")
    await page.wait_for_url("**/page/")
    await expect(page.get_by_text("60 requests a minute")).to_be_visible()
    return secret


async def rotate(page: Page, old: str) -> str:
    """A new secret; the old one has an hour left. Before it, one reads when the old one was used."""
    await page.click("text=Rotate")
    await expect(page.get_by_text(f"{old[-4:]} was last used")).to_be_visible()
    await page.check("input[name=grace][value='1']")
    await page.click("text=Make a new secret")
    await page.wait_for_url("**/secret/")
    return (await page.inner_text("[data-secret]")).strip()


async def revoke(page: Page) -> None:
    """Only by its name."""
    await page.click(".gh-menu > summary")
    await page.click("text=Revoke")
    await page.fill("#id_typed", "another name")
    await page.click("text=Revoke for good")
    await expect(page.get_by_text("to revoke it")).to_be_visible()
    await page.fill("#id_typed", "notebook")
    await page.click("text=Revoke for good")
    await page.wait_for_url("**/page/")
    await expect(page.locator(".gh-state", has_text="Revoked")).to_be_visible()
