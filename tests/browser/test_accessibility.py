"""The main pages without serious findings of axe-core (WCAG 2.1, A and AA), and with contrast in the dark as well."""

from __future__ import annotations

from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from playwright.async_api import Browser

from keys import invitations
from keys.models import Invitation
from tests.browser.conftest import Visitor, visitor
from tests.proxy_site.admin_world import World, make_world

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
SERIOUS = """async (rules) => (await axe.run(document, {
  runOnly: rules, resultTypes: ["violations"], elementRef: false,
})).violations.filter((each) => ["serious", "critical"].includes(each.impact))
  .flatMap((each) => each.nodes.slice(0, 4).map((node) => `${each.id}: ${node.target} ${node.any[0]?.message ?? ""}`))"""
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
DARK = "document.documentElement.classList.add('dark')"
PAGES = (
    "/admin/",
    "/admin/usage/requestrecord/",
    "/admin/usage/explorer/",
    "/admin/budgets/",
    "/admin/health/",
    "/admin/audit/",
    "/admin/playground/",
    "/admin/losses/",
    "/admin/usage/storedbody/{body}/",
    "/admin/my-keys/",
    "/admin/second-factor/",
    "/admin/keys/virtualkey/",
    "/admin/keys/virtualkey/add/",
    "/admin/keys/virtualkey/{key}/change/",
    "/admin/keys/virtualkey/{key}/page/",
    "/admin/keys/virtualkey/{key}/revoke/",
    "/admin/keys/organization/{organization}/change/",
    "/admin/keys/organization/{organization}/alerts/",
    "/admin/keys/invitation/{invitation}/link/",
    "/admin/routing/connection/add/?kind=openai",
)


@pytest.fixture
def world(transactional_db: None) -> World:
    return make_world()


async def findings(guest: Visitor, paths: list[str]) -> list[str]:
    """Everything once, and the contrast once more in the dark."""
    found = []
    for path in paths:
        await guest.page.goto(f"{guest.site}{path}")
        await guest.page.evaluate(AXE)
        found += [f"{path} {each}" for each in await guest.page.evaluate(SERIOUS, WCAG)]
        await guest.page.evaluate(DARK)
        found += [f"{path} dark {each}" for each in await guest.page.evaluate(SERIOUS, ["color-contrast"])]
    return found


async def test_the_main_pages_have_no_serious_findings(world: World, site: str, browser: Browser) -> None:
    rows = world.acme.rows
    invitation = await sync_to_async(Invitation.objects.get)(pk=rows["keys.invitation"].pk)
    guest = await visitor(browser, site)
    doors = ["/admin/login/", "/admin/password-reset/", f"/admin/join/{invitations.token(invitation)}/"]
    found = await findings(guest, doors)
    await guest.sign_in("root@example.org")
    named = {
        "key": rows["keys.virtualkey"].pk,
        "organization": world.acme.organization.pk,
        "invitation": invitation.pk,
        "body": rows["usage.storedbody"].pk,
    }
    found += await findings(guest, [path.format(**named) for path in PAGES])
    assert not found, "\n".join(found)
