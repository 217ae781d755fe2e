"""Every page in a real browser, loaded once: it complains about nothing, overflows no screen and calls nobody outside.

The main pages have no serious findings of axe-core either (WCAG 2.1, A and AA), with contrast in the dark as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.async_api import Page

from keys import invitations
from keys.models import Invitation
from tests.browser.conftest import SWITCH, Closer, Visitor
from tests.factories import make_key, make_limit
from tests.proxy_site.admin_world import World, make_world

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

DOORS = (
    "/admin/login/",
    "/admin/password-reset/",
    "/admin/join/{token}/",
)
MAIN = (
    "/admin/",
    "/admin/usage/requestrecord/",
    "/admin/usage/explorer/",
    "/admin/budgets/",
    "/admin/health/",
    "/admin/audit/",
    "/admin/playground/",
    "/admin/losses/",
    "/admin/usage/storedbody/{usage.storedbody}/",
    "/admin/my-keys/",
    "/admin/second-factor/",
    "/admin/keys/virtualkey/",
    "/admin/keys/virtualkey/add/",
    "/admin/keys/virtualkey/{keys.virtualkey}/change/",
    "/admin/keys/virtualkey/{keys.virtualkey}/page/",
    "/admin/keys/virtualkey/{keys.virtualkey}/revoke/",
    "/admin/keys/organization/{keys.organization}/change/",
    "/admin/keys/organization/{keys.organization}/alerts/",
    "/admin/keys/invitation/{keys.invitation}/link/",
    "/admin/routing/connection/add/?kind=openai",
)
OTHERS = (
    "/admin/?range=24h",
    "/admin/usage/requestrecord/?live=1",
    "/admin/usage/requestrecord/{usage.requestrecord}/change/",
    "/admin/usage/explorer/?range=24h&metric=p95_ms&group=key&subgroup=status",
    "/admin/usage/explorer/?range=custom&first=2020-01-01&last=2020-01-02",
    "/admin/usage/priceoverride/add/",
    "/admin/budgets/?state=reached",
    "/admin/key-tester/?key={keys.virtualkey}",
    "/admin/simulator/?key={keys.virtualkey}&model=acme-model",
    "/admin/losses/?deployment={routing.deployment}&sample=tools",
    "/admin/losses/?kept={usage.storedbody}",
    "/admin/audit/?q=nothing-like-it",
    "/admin/keys/virtualkey/{keys.virtualkey}/secret/",
    "/admin/keys/virtualkey/{keys.virtualkey}/rotate/",
    "/admin/keys/organization/",
    "/admin/keys/invitation/",
    "/admin/keys/team/",
    "/admin/keys/membership/add/",
    "/admin/keys/user/",
    "/admin/keys/auditevent/",
    "/admin/routing/connection/",
    "/admin/routing/connection/add/",
    "/admin/routing/connection/{routing.connection}/change/",
    "/admin/routing/publicmodel/{routing.publicmodel}/change/",
    "/admin/routing/deployment/",
    "/admin/routing/deployment/{routing.deployment}/change/",
)

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
# Without `preload`: it is for rules about orientation and sound, which are not among these or have nothing to look at.
SERIOUS = """async ([rules, exclude]) => (await axe.run({ exclude }, {
  runOnly: rules, resultTypes: ["violations"], elementRef: false, preload: false,
})).violations.filter((each) => ["serious", "critical"].includes(each.impact))
  .flatMap((each) => each.nodes.slice(0, 4).map((node) => `${each.id}: ${node.target} ${node.any[0]?.message ?? ""}`))"""
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@pytest.fixture
def world(transactional_db: None) -> World:
    made = make_world()
    make_limit(made.acme.organization, "spend", 20)
    make_key(made.acme.organization, "own", owner=made.people["platform"])
    return made


@pytest.fixture
def token(world: World) -> str:
    """What an invitation's link carries."""
    return invitations.token(Invitation.objects.get(pk=world.acme.rows["keys.invitation"].pk))


async def test_the_doors_have_no_fault_and_no_serious_finding(world: World, token: str, guest: Visitor) -> None:
    wrong = []
    for path in DOORS:
        wrong += [f"{path} {each}" for each in await guest.faults(path.format(token=token), findings)]
    assert not wrong, "\n".join(wrong)


async def test_the_main_pages_have_no_fault_and_no_serious_finding(world: World, guest: Visitor) -> None:
    await guest.enter("root@example.org")
    first, *more = addresses(world, MAIN)
    wrong = await faults(guest, first, findings)
    for path in more:
        wrong += await faults(guest, path, beside_the_sidebar)
    assert not wrong, "\n".join(wrong)


async def test_the_other_pages_have_no_fault(world: World, guest: Visitor) -> None:
    await guest.enter("root@example.org")
    wrong = []
    for path in addresses(world, OTHERS):
        wrong += await faults(guest, path)
    assert not wrong, "\n".join(wrong)


def addresses(world: World, paths: tuple[str, ...]) -> list[str]:
    return [
        re.sub(r"\{([\w.]+)\}", lambda found: str(world.acme.rows[found.group(1)].pk), path)
        for path in paths
    ]  # fmt: skip


async def faults(guest: Visitor, path: str, closer: Closer | None = None) -> list[str]:
    found = await guest.faults(path, closer)
    if await guest.page.locator(".gh-box, #content-main, .gh-kinds").count() == 0:
        found.append("not the page")
    return [f"{path} {each}" for each in found]


async def findings(page: Page, *, exclude: Sequence[str] = ()) -> list[str]:
    """What axe says about a page: everything once, and the contrast once more in the dark."""
    await page.evaluate(AXE)
    found: list[str] = await page.evaluate(SERIOUS, [WCAG, exclude])
    await page.evaluate(SWITCH, True)
    return found + [f"dark {each}" for each in await page.evaluate(SERIOUS, [["color-contrast"], exclude])]


async def beside_the_sidebar(page: Page) -> list[str]:
    """What axe says about all but the sidebar, which is the same on every page."""
    return await findings(page, exclude=["#nav-sidebar"])
