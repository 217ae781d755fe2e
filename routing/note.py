"""Note: what a call's record tells of one try at one deployment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass  # without slots: those orjson writes four times slower, and a note is written twice a call
class Note:
    """One try, or one deployment passed over. Filled in when the try ends; offset_ms counts from the call's start.

    reason: why this deployment was chosen ("fastest of two", "only one left", "probe"), or why it was skipped.
    outcome: "ok", "skipped", "cancelled", or an UpstreamError kind.
    """

    deployment_id: str
    deployment: str
    reason: str
    outcome: str
    offset_ms: int = 0
    duration_ms: int = 0
    ttft_ms: int | None = None
    provider_status: int | None = None
    error: str = ""
