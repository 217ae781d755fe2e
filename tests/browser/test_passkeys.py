"""A passkey from the first click to the last, with a device that Chromium plays (the virtual authenticator of its protocol)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import expect

from keys.models import Passkey
from tests.browser.conftest import Visitor
from tests.factories import PASSWORD, make_platform_admin

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

DEVICE = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip
NONE_USED = re.compile("No passkey was used")


async def with_device(guest: Visitor) -> tuple[Any, str]:
    """A session of Chromium's own protocol, and the device's id in it."""
    spoken = await guest.page.context.new_cdp_session(guest.page)
    await spoken.send("WebAuthn.enable")
    made = await spoken.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    return spoken, made["authenticatorId"]


async def sign_out(guest: Visitor) -> None:
    await guest.page.context.clear_cookies()
    await guest.open("/admin/login/")


async def test_a_passkey_is_added_signs_in_and_is_removed(transactional_db: None, guest: Visitor) -> None:
    await sync_to_async(make_platform_admin)()
    page = guest.page
    spoken, device = await with_device(guest)
    await guest.sign_in("root@example.org")
    await guest.open("/admin/second-factor/")
    await page.locator("#passkeys input[name=password]").fill("not-the-one")
    await page.click("text=Add a passkey")
    await expect(page.get_by_role("alert")).to_have_text("This is not your password.")
    await page.locator("#passkeys input[name=password]").fill(PASSWORD)
    await page.fill("#id_name", "Work notebook")
    await page.click("text=Add a passkey")
    await expect(page.get_by_text("Work notebook signs you in from now on.")).to_be_visible()
    await sign_out(guest)
    await page.click("text=Sign in with a passkey")
    await page.wait_for_url(f"{guest.site}/admin/")
    row = await sync_to_async(Passkey.objects.get)()
    assert row.last_used_at is not None
    assert row.sign_count > 0

    # The password alone does not, and a device that refuses is told in a sentence.
    await sign_out(guest)
    await page.fill("input[name=username]", "root@example.org")
    await page.fill("input[name=password]", PASSWORD)
    await page.press("input[name=password]", "Enter")
    await expect(page.get_by_role("alert").first).to_contain_text("use your passkey")
    await spoken.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    await page.click("text=Sign in with a passkey")
    await expect(page.locator("[data-passkey-trouble]")).to_have_text(NONE_USED)
    await spoken.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": True})
    await page.click("text=Sign in with a passkey")
    await page.wait_for_url(f"{guest.site}/admin/")

    # It proves once more who one is, and goes.
    await guest.open("/admin/second-factor/")
    assert await guest.overflow() <= 0
    await page.get_by_role("link", name="Remove Work notebook").click()
    await page.get_by_role("button", name="Remove").click()
    await expect(page.get_by_text("Work notebook is gone.")).to_be_visible()
    assert not await sync_to_async(Passkey.objects.exists)()
    assert guest.troubles == []
