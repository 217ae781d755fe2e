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


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Path]:
    """A copy of the code, as a stranger would have it."""
    place = tmp_path / "house"
    for room in ROOMS:
        shutil.copytree(HOUSE / room, place / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("manage.py", "pyproject.toml"):
        shutil.copy(HOUSE / name, place / name)
    yield place
    shutil.rmtree(place)


def test_one_file_makes_a_backend(house: Path, upstream: Callable[[str], Any]) -> None:
    (house / "routing/backends/ninth.py").write_text(NINTH.replace("LANGUAGE", "chat_completions"))
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
    (house / "routing/backends/ninth.py").write_text(NINTH.replace("LANGUAGE", "klingon"))
    with gateway(None, store="embedded", house=house, started=False) as running:
        with pytest.raises(AssertionError) as refused:
            running.manage("check")
        assert "ninth" in str(refused.value) and "klingon" in str(refused.value)
