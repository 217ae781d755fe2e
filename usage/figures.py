"""Figures as people read them: money, tokens, times, and one record's waterfall. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from usage.models import RequestRecord


def compact(number: float) -> str:
    """5.1M, 12.4K, 873: three figures are enough to compare by."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= size:
            scaled = number / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{number:,.0f}"


def dollars(nano: int | None) -> str:
    """Nano-dollars as USD, with as many decimals as it needs to say something."""
    if nano is None:
        return "unpriced"
    amount = nano / 1e9
    if amount == 0:
        return "$0"
    if abs(amount) >= 1000:
        return f"${compact(amount)}" if abs(amount) >= 100_000 else f"${amount:,.0f}"
    return f"${amount:,.2f}" if abs(amount) >= 1 else f"${amount:.4f}" if abs(amount) >= 0.0001 else f"${amount:.6f}"


def duration(milliseconds: float | None) -> str:
    """120 ms, 1.4 s, 2 min 5 s."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def percent(part: float, whole: float) -> str:
    if not whole:
        return "–"
    share = 100 * part / whole
    return f"{share:.0f} %" if share in (0, 100) else f"{share:.1f} %" if share < 99.95 else "99.9 %"


@dataclass(frozen=True, slots=True)
class Lane:
    """One attempt as a bar: left, width and first are percent of the whole call."""

    note: dict[str, Any]
    left: float
    width: float
    first: float | None

    @property
    def kind(self) -> str:
        return {"ok": "gh-ok", "skipped": "gh-skipped"}.get(str(self.note.get("outcome", "")), "gh-failed")


def waterfall(record: RequestRecord) -> list[Lane]:
    """Every attempt of a call, on the scale of its total time."""
    notes = [note for note in record.attempts if isinstance(note, dict)]
    ends = [int(note.get("offset_ms") or 0) + int(note.get("duration_ms") or 0) for note in notes]
    whole = max([record.total_ms, 1, *ends])
    lanes = []
    for note in notes:
        offset, took, first = int(note.get("offset_ms") or 0), int(note.get("duration_ms") or 0), note.get("ttft_ms")
        lanes.append(
            Lane(
                note=note,
                left=round(100 * offset / whole, 2),
                width=round(100 * took / whole, 2),
                first=round(100 * (offset + int(first)) / whole, 2) if first is not None else None,
            )
        )
    return lanes
