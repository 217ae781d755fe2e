"""A live site and a browser for it: uvicorn in a process of its own on the test database, Chromium by playwright."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.factories import PASSWORD
from tests.plugin import chromium
from tests.servers import die_with_parent

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
expect.set_options(timeout=20_000)  # milliseconds: a busy machine is not a broken page
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all of them, because they share a browser."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)


@pytest.fixture(scope="package")
def site(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Gatehouse that works on the test database, the same for all tests."""
    from django.conf import settings  # noqa: PLC0415 - ready only now
    from django.db import connection  # noqa: PLC0415 - as above

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    tmp_path = tmp_path_factory.mktemp("site")
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor == "postgresql":
        login = f"{database['USER']}:{database['PASSWORD']}" if database["PASSWORD"] else database["USER"]
        url = f"postgres://{login}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "GATEHOUSE_DATA_DIR": str(tmp_path),
        "SECRET_KEY": settings.SECRET_KEY,
        "GATEHOUSE_PEPPER": settings.GATEHOUSE_PEPPER,
        "GATEHOUSE_ENCRYPTION_KEYS": settings.GATEHOUSE_ENCRYPTION_KEYS,
        "GATEHOUSE_PUBLIC_URL": f"http://localhost:{port}",  # a passkey belongs to a name, never to an address
    }
    log = (tmp_path / "server.log").open("w")
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "--port", str(port)]
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/admin/login/", server, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)  # a process is starting: there is nothing to wait on but its port
    raise AssertionError(f"The site did not start: {log.read_text()[-3000:]}")


# Two frames: what scripts changed in the first is on the screen with the second.
DRAWN = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"


Theme = Literal["dark", "light"]
Screen = tuple[int, Theme]  # pixels across
SMALL: Screen = (390, "dark")
LARGE: Screen = (1440, "light")


@dataclass
class Visitor:
    """One browser window, with everything that went wrong in it."""

    page: Page
    site: str
    troubles: list[str] = field(default_factory=list)

    async def sign_in(self, email: str, password: str = PASSWORD) -> None:
        await self.page.goto(f"{self.site}/admin/login/")
        await self.page.fill("input[name=username]", email)
        await self.page.fill("input[name=password]", password)
        await self.page.press("input[name=password]", "Enter")
        await self.page.wait_for_url(f"{self.site}/admin/")

    async def open(self, path: str) -> None:
        """Go there, and let everything that the page does when it is loaded show."""
        await self.page.goto(f"{self.site}{path}")
        await self.page.evaluate(DRAWN)

    async def faults(self, path: str) -> list[str]:
        """Go there on a small dark screen, then look on a large light one: what is wrong with the page on either."""
        found = []
        for width, theme in (SMALL, LARGE):
            await self.page.set_viewport_size({"width": width, "height": 900})
            await self.page.emulate_media(color_scheme=theme)
            if width == SMALL[0]:
                await self.page.goto(f"{self.site}{path}")
            await self.page.evaluate(DRAWN)
            if (over := await self.overflow()) > 0:
                found.append(f"{over} px wider than {width} ({theme})")
        found += self.troubles
        self.troubles.clear()
        return found

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    def watch(self) -> None:
        self.page.on(
            "console", lambda said: self.troubles.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.site, "data:", "blob:")):
            self.troubles.append(f"outside request: {request.url}")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def _running_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="package")
async def browser(_running_browser: Browser) -> AsyncIterator[Browser]:
    """Chromium, the same for all tests; windows, cookies and storage are this test's alone."""
    yield _running_browser
    for context in _running_browser.contexts:
        await context.close()


async def visitor(browser: Browser, site: str, *, width: int = LARGE[0], theme: Theme = LARGE[1]) -> Visitor:
    context: BrowserContext = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    made = Visitor(await context.new_page(), site)
    made.watch()
    return made
