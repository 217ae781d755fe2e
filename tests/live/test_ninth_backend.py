"""A ninth backend that speaks a known language is one file, dropped in: nothing else is edited."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import types

from tests.live.conformance import get_weather, said
from tests.live.gateway import HOUSE, gateway, one_organization
from tests.upstreams.test_google_sdk import BOTH_CITIES

pytestmark = pytest.mark.live

ROOMS = ("lib", "keys", "routing", "usage", "gemini_api", "proxy_site", "templates", "static")
NINTH = '''"""Ninth: OpenAI's language, at an address and behind a header of its own."""

from routing.backends.base import Action, Backend, Endpoint


class Ninth(Backend):
    label = "Ninth"
    language = "LANGUAGE"

    def url(self, endpoint: Endpoint, action: Action) -> str:
        return f"{endpoint.base_url}/v1/chat/completions"

    def headers(self, endpoint: Endpoint) -> dict[str, str]:
        return {"authorization": f"Bearer {endpoint.credential['api_key']}", "x-ninth": "yes"}


backend = Ninth()
'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the code, as a stranger would have it; with its bytecode, so that each start need not compile it."""
    place = tmp_path_factory.mktemp("stranger") / "house"
    unfinished = shutil.ignore_patterns("*.pyc.*")  # other processes may be writing some
    for room in ROOMS:
        shutil.copytree(HOUSE / room, place / room, ignore=unfinished)
    for name in ("manage.py", "pyproject.toml"):
        shutil.copy(HOUSE / name, place / name)
    yield place
    shutil.rmtree(place)


def drop_in(house: Path, language: str) -> None:
    (house / "routing/backends/ninth.py").write_text(NINTH.replace("LANGUAGE", language))


def test_one_file_makes_a_backend(house: Path, upstream: Callable[[str], Any]) -> None:
    drop_in(house, "chat_completions")
    vendor = upstream("openai")
    connection = {
        "name": "ninth",
        "kind": "ninth",
        "base_url": vendor.url,
        "credential": {"api_key": "upstream-key"},
        "allow_private": True,
    }
    model = {"name": "nine", "deployments": [{"connection": "ninth", "upstream_model": "gpt-4o"}], "unpriced": "serve"}
    with gateway(one_organization([connection], [model]), store="embedded", house=house) as running:
        running.manage("makemigrations", "--check", "--dry-run")
        with genai.Client(api_key=running.keys["ci"], http_options={"base_url": running.url}) as client:
            assert client.models.generate_content(model="nine", contents="Hi").text == "You said: Hi."
            chunks = list(client.models.generate_content_stream(model="nine", contents="one two"))
            assert said(chunks) == "You said: one two."
            chat = client.chats.create(model="nine", config=types.GenerateContentConfig(tools=[get_weather]))
            assert chat.send_message(BOTH_CITIES).text == "The tools said: 18 C in Rome; 18 C in Oslo"
        assert all(request.headers["x-ninth"] == "yes" for request in vendor.requests)


def test_a_backend_whose_language_nobody_translates_is_told_so(house: Path) -> None:
    drop_in(house, "klingon")
    with gateway(None, store="embedded", house=house, started=False) as running:
        with pytest.raises(AssertionError) as refused:
            running.manage("check")
        assert "ninth" in str(refused.value) and "klingon" in str(refused.value)
