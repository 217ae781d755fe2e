"""Which groups are told one by one, the rest being "Other": chosen before anything is asked by step, so that an answer
is as large as what is shown of it, however many keys or end users there are.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, CharField, F, Q, Value, When

ALIASES = ("group", "part")  # of the columns one asks by; no roll-up has columns named so
Ids = tuple[str | None, ...]  # per dimension; None: Other


@dataclass(frozen=True, slots=True)
class Tops:
    """first: the groups kept, None: all. parts: those kept of a group (None: of Other) that has too many."""

    first: frozenset[str] | None
    parts: Mapping[str | None, frozenset[str]]

    def folded(self, ids: Sequence[str]) -> Ids:
        """Where the figures of these ids (none, a group, or a group and a part) belong."""
        if not ids:
            return ()
        first = ids[0] if self.first is None or ids[0] in self.first else None
        kept = self.parts.get(first)
        return (first, *[part if kept is None or part in kept else None for part in ids[1:]])

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """The same for the database: per alias, what to group by instead of the columns of these names."""
        if not names:
            return {}
        kept = None if self.first is None else Q(**{f"{names[0]}__in": sorted(self.first)})
        found: dict[str, Any] = {"group": F(names[0]) if kept is None else Case(When(kept, then=F(names[0])))}
        if len(names) > 1:
            found["part"] = F(names[1])
            if self.parts:
                found["part"] = Case(*self._others(names, kept), default=F(names[1]), output_field=CharField())
        return found

    def _others(self, names: Sequence[str], kept: Q | None) -> list[When]:
        """Per group with too many parts: those that are not kept."""
        found = []
        for group, parts in self.parts.items():
            inside = ~(kept or Q()) if group is None else Q(**{names[0]: group})
            found.append(When(inside & ~Q(**{f"{names[1]}__in": sorted(parts)}), then=Value(None)))
        return found

    @property
    def question(self) -> Hashable:
        """As part of what was asked: the same whatever the order within the top ones."""
        return (self.first, frozenset(self.parts.items()))
