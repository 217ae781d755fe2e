"""Every kind of backend against every case, through the real SDK and the real gateway; and the page that tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.conformance import CASES, NOTES, YES, Talk, outcome, page
from tests.live.world import BY_NAME, KINDS, Kind, World

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


@pytest.mark.live
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
@pytest.mark.parametrize("title", CASES)
def test_a_gemini_client_gets_what_the_page_says(world: World, title: str, kind: Kind) -> None:
    assert CASES[title](Talk(world, kind)) == outcome(title, kind)


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.live.conformance > docs/conformance.md"


def test_every_note_belongs_to_a_cell_and_explains_it() -> None:
    for (title, kind), (word, sentence) in NOTES.items():
        assert title in CASES and kind in BY_NAME
        assert word != YES and sentence.endswith(".")
