"""Our own exceptions in Google's words."""

from __future__ import annotations

from gemini_api.told import told
from usage.spool import SpoolFull


def test_a_call_that_cannot_be_written_down_may_be_tried_again() -> None:
    error = told(SpoolFull("No space left on device"))
    assert (error.code, error.status) == (503, "UNAVAILABLE")
    assert "device" not in str(error)
