"""UsageEvent: the one record of one call, from the door to the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from routing.note import Note


# Nobody changes one, but "frozen" makes it three times as dear; and what has slots orjson writes four times slower.
@dataclass(unsafe_hash=True)
class Tokens:
    """Tokens by class. prompt includes cached and cache_write; candidates excludes thoughts (Gemini's meaning).

    audio_prompt, image_prompt, audio_output and image_output are parts of prompt and candidates, priced on their own when the card says so.
    """

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    tool_use: int = 0
    candidates: int = 0
    thoughts: int = 0
    audio_prompt: int = 0
    image_prompt: int = 0
    audio_output: int = 0
    image_output: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.tool_use + self.candidates + self.thoughts


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """Everything the ledger keeps of a call. Ids and names, so that the record outlives what it names.

    call_id: UUIDv7. started_ms: Unix milliseconds. ttft_ms, total_ms: milliseconds. cost_nano: nano-dollars, None when
    unpriced. http_status: what the client was told (499: the client left). status: Google's word, "OK" for success.
    flags: any of "estimated", "cancelled", "cut", "unpriced", "orphaned", "playground", "degraded".
    held_nano, held_tokens: what admission held; the upper bound of an estimated charge.
    """

    call_id: str
    started_ms: int
    organization_id: str
    organization: str
    key_id: str
    key: str
    action: str
    model: str
    team_id: str = ""
    team: str = ""
    owner: str = ""
    requested_model: str = ""
    stream: bool = False
    deployment_id: str = ""
    deployment: str = ""
    connection: str = ""
    backend: str = ""
    upstream_model: str = ""
    http_status: int = 0
    status: str = ""
    error: str = ""
    finish_reason: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    cost_nano: int | None = None
    price_version: str = ""
    ttft_ms: int | None = None
    total_ms: int = 0
    attempts: tuple[Note, ...] = ()
    dropped: tuple[str, ...] = ()
    client: str = ""
    address: str = ""
    label: str = ""
    tags: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    held_nano: int = 0
    held_tokens: int = 0
    time_zone: str = "UTC"
    limit_ids: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
