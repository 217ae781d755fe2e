"""A live site and a browser for it: uvicorn in a process of its own on the test database, Chromium by playwright."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection
from django.test import Client
from playwright.async_api import ConsoleMessage, Dialog, Page, Request, async_playwright, expect

from keys.models import User
from tests.factories import PASSWORD
from tests.plugin import chromium
from tests.servers import die_with_parent

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
expect.set_options(timeout=20_000)  # milliseconds: a busy machine is not a broken page
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--app=data:text/html,",  # a window without tabs: nobody looks at how their spinners turn while a page loads
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all of them, because they share a browser."""
    for item in items:
        if HERE in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)


@pytest.fixture(scope="package")
def site(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Gatehouse that works on the test database, the same for all tests."""
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
        yield environment["GATEHOUSE_PUBLIC_URL"]
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
# By how many pixels the page is wider than the window.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
IS_DARK = "document.documentElement.classList.contains('dark')"
# What the site's own switch does; only when it is loaded does a page ask for the system's theme.
SWITCH = "(dark) => document.documentElement.classList.toggle('dark', dark)"
# A thing of the site that runs no script and asks for nothing.
STILL = "/static/gatehouse/favicon.svg"
FORGET = "() => { localStorage.clear(); sessionStorage.clear(); }"


Theme = Literal["dark", "light"]
Screen = tuple[int, Theme]  # pixels across
SMALL: Screen = (390, "dark")
LARGE: Screen = (1440, "light")
Closer = Callable[[Page], Awaitable[list[str]]]


@dataclass
class Visitor:
    """Somebody before the browser window, and everything that went wrong in it."""

    page: Page
    site: str
    screen: Screen = LARGE
    troubles: list[str] = field(default_factory=list)

    async def sign_in(self, email: str, password: str = PASSWORD) -> None:
        """As people do it."""
        await self.page.goto(f"{self.site}/admin/login/")
        await self.page.fill("input[name=username]", email)
        await self.page.fill("input[name=password]", password)
        await self.page.press("input[name=password]", "Enter")
        await self.page.wait_for_url(f"{self.site}/admin/")

    async def enter(self, email: str) -> None:
        """Be signed in, for tests that are about what comes after."""
        cookie = await sync_to_async(session_of)(email)
        await self.page.context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": self.site}])

    async def open(self, path: str) -> None:
        """Go there, and let everything that the page does when it is loaded show."""
        await self.page.goto(f"{self.site}{path}")
        await self.page.evaluate(DRAWN)

    async def faults(self, path: str, closer: Closer | None = None) -> list[str]:
        """Go there, and look on the small dark screen and on the large light one: what is wrong with the page on either.

        It begins with the screen that the last page was left on, so that what goes is not laid out once more. `closer` is
        for what is to be looked at on the large one alone.
        """
        answer = await self.page.goto(f"{self.site}{path}")
        found = [] if answer and answer.status == 200 else [f"answered {answer and answer.status}"]
        if await self.page.evaluate(IS_DARK) != (self.screen is SMALL):
            found.append(f"does not take the system's theme: {self.screen}")
        for screen in (self.screen, SMALL if self.screen is LARGE else LARGE):
            await self.before(screen)
            await self.page.evaluate(SWITCH, screen is SMALL)
            await self.page.evaluate(DRAWN)
            if (over := await self.overflow()) > 0:
                found.append(f"{over} px wider than {screen}")
            if closer and screen is LARGE:
                found += await closer(self.page)
        found += self.troubles
        self.troubles.clear()
        return found

    async def before(self, screen: Screen) -> None:
        if screen != self.screen:
            width, theme = self.screen = screen
            await self.page.set_viewport_size({"width": width, "height": 900})
            await self.page.emulate_media(color_scheme=theme)

    async def overflow(self) -> int:
        return int(await self.page.evaluate(OVERFLOW))

    @asynccontextmanager
    async def at_home(self) -> AsyncIterator[Visitor]:
        """Watch from here on; leave the window as it was found: nobody signed in, nothing stored, nothing going on."""
        watched = {"console": self._said, "pageerror": self._failed, "request": self._asked, "dialog": self._stopped}
        for event, heard in watched.items():
            self.page.on(event, heard)  # type: ignore[call-overload]  # one overload an event
        try:
            yield self
        finally:
            for event, heard in watched.items():
                self.page.remove_listener(event, heard)
            await self.page.goto(f"{self.site}{STILL}")
            await self.before(LARGE)
            await self.page.evaluate(FORGET)
            await self.page.context.clear_cookies()

    def _said(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self.troubles.append(said.text)

    def _failed(self, error: Exception) -> None:
        self.troubles.append(str(error))

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.site, "data:", "blob:")):
            self.troubles.append(f"outside request: {request.url}")

    async def _stopped(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


def session_of(email: str) -> str:
    client = Client()
    client.force_login(User.objects.get(email=email), backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies[settings.SESSION_COOKIE_NAME].value


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def _window(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """Chromium's only window. Each one more would cost what eight pages cost: processes, and everything fetched anew."""
    async with async_playwright() as playwright:
        chosen = await playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"), executable_path=chromium(), args=list(FLAGS)
        )
        window = chosen.pages[0]
        await window.set_viewport_size({"width": LARGE[0], "height": 900})
        await window.emulate_media(color_scheme=LARGE[1])
        yield window
        await chosen.close()


@pytest_asyncio.fixture(loop_scope="package")
async def guest(_window: Page, site: str) -> AsyncIterator[Visitor]:
    """Somebody before a browser in which nobody is signed in."""
    async with Visitor(_window, site).at_home() as visitor:
        yield visitor
