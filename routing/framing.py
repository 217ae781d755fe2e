"""Bytes from an upstream into Frames. No I/O: feed bytes, get frames, in whatever pieces the network cuts them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream.

    event: the SSE event name, or the AWS event (or exception) type; "" when there is none.
    data: the payload, JSON bytes as they came.
    exception: the upstream marked this frame as an error by its framing (AWS `:message-type`).
    """

    data: bytes
    event: str = ""
    exception: bool = False
