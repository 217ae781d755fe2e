"""The pages that the documentation shows, walked over a made-up installation. `--screenshots DIR` keeps the pictures."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Page, expect

from keys.models import Membership
from proxy_site.demo import history
from tests.browser.conftest import Theme, Visitor
from tests.browser.png import smaller
from tests.factories import (
    make_connection,
    make_key,
    make_limit,
    make_model,
    make_organization,
    make_person,
    make_platform_admin,
    make_team,
)
from usage.models import RequestRecord

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LARGEST = 150_000  # bytes of one picture
WALKED = 60  # calls of the history when nobody keeps the pictures


def furnish(calls: int) -> str:
    """The demo's installation, without its provider. Returns the id of a call that two deployments were asked for."""
    organization = make_organization("acme", name="Acme")
    search, support = (make_team(organization, slug, name=slug.capitalize()) for slug in ("search", "support"))
    gemini = make_connection("gemini", "https://gemini.example", name="google-main")
    openai = make_connection("openai", "https://openai.example/v1", name="openai-main")
    make_model("gemini-2.5-flash", [gemini], aliases=["fast"]).deployments.create(
        connection=openai, upstream_model="gpt-4o-mini"
    )
    make_model("gemini-2.5-pro", [openai], upstream_model="gpt-4o")
    make_limit(organization, "spend", 100, period="month")
    make_key(organization, "demo", team=search)
    for name, team, amount in (("search-web", search, 60), ("support-bot", support, 20), ("ci", None, 15)):
        make_limit(make_key(organization, name, team=team).key, "spend", amount, period="month")
    make_person("grace", organization, Membership.Role.ADMIN)
    make_platform_admin("ada")
    history.write(calls)
    tried = [record for record in RequestRecord.objects.order_by("-pk") if len(record.attempts) > 1]
    return str((tried or list(RequestRecord.objects.all()[:1]))[0].pk)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_pages_of_the_documentation(
    transactional_db: None, guest: Visitor, theme: Theme, pytestconfig: pytest.Config
) -> None:
    folder = pytestconfig.getoption("--screenshots")
    if theme == "dark" and not folder:
        return  # one walk is enough when nobody looks at it
    record = await sync_to_async(furnish)(history.CALLS if folder else WALKED)
    await guest.before((1440, theme))
    await guest.enter("ada@example.org")
    page = guest.page

    async def shown(name: str, height: int = 900) -> None:
        await expect(page.locator(".gh-box").first).to_be_visible()
        await page.mouse.move(0, 0)
        if folder:
            await keep(page, Path(folder) / f"{name}{'-dark' if theme == 'dark' else ''}.png", height)

    await guest.open("/admin/")
    await shown("overview", 960)
    if theme == "light":
        await guest.open(f"/admin/usage/requestrecord/{record}/change/")
        await shown("request")
        await guest.open("/admin/health/")
        await expect(page.locator(".gh-day-strip").first).to_be_visible()
        await shown("health")
        await guest.open("/admin/keys/virtualkey/add/")
        await page.fill("#id_name", "notebook")
        await page.click("button[name=_save], input[name=_save]")
        await page.wait_for_url("**/secret/")
        await shown("key-created")
    assert guest.troubles == []


async def keep(page: Page, path: Path, height: int) -> None:
    """The window alone, small enough for a repository."""
    await page.set_viewport_size({"width": 1440, "height": height})
    await page.wait_for_function("document.fonts.status === 'loaded'")
    picture = smaller(await page.screenshot(animations="disabled", caret="hide"))
    assert len(picture) < LARGEST, f"{path.name} has {len(picture)} bytes"
    await asyncio.to_thread(path.write_bytes, picture)
