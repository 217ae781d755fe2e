"""Which limits had something to do with calls lately: whoever warns or reconciles looks at those alone."""

from __future__ import annotations

from keys.context import LimitRule
from keys.limits.windows import Plan


class Touched:
    """What this process has seen since somebody last asked."""

    def __init__(self) -> None:
        self._plans: dict[Plan, None] = {}
        self._refused: dict[LimitRule, Plan] = {}

    def note(self, plan: Plan) -> None:
        self._plans[plan] = None

    def refused(self, plan: Plan, rule: LimitRule) -> None:
        """A call was refused that would not fit even if nothing else ran."""
        self._refused[rule] = plan

    def take(self) -> tuple[list[Plan], dict[LimitRule, Plan]]:
        """Everything since the last time."""
        plans, self._plans = list(self._plans), {}
        refused, self._refused = self._refused, {}
        return plans, refused
