"""Limits in the admin: one plain table under a key, a team or an organization."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.widgets import (
    UnfoldAdminTextInputWidget,
)

from keys.models import Limit, Organization
from keys.principal import ADMIN
from keys.scoped_admin import ScopedInline

LARGEST_SPEND = Decimal(9_000_000)


class AmountField(forms.DecimalField):
    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    amount = AmountField(
        min_value=Decimal(0),
        max_value=Decimal(10) ** 15,
        max_digits=19,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal", "class": "gh-number", "aria-label": "Amount"}),
        help_text="USD for spend; else a whole number of requests, tokens or calls at once.",
    )

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        amount, metric = given.get("amount"), given.get("metric")
        if amount is not None and metric == Limit.Metric.SPEND and amount > LARGEST_SPEND:
            self.add_error("amount", "A spend limit may be at most 9,000,000 USD.")
        if amount is not None and metric and metric != Limit.Metric.SPEND and amount != amount.to_integral_value():
            self.add_error("amount", "Only spend has decimals; give a whole number.")
        if not given.get("pattern"):
            given["pattern"] = "*"
        return given


class LimitInline(ScopedInline):
    model = Limit
    form = LimitForm
    fields = ("metric", "amount", "period", "pattern", "hard")
    hide_title = True
    verbose_name = "limit"
    verbose_name_plural = "limits"

    def _by_parent(self, request: HttpRequest, obj: Any) -> bool:
        """Limits are set by those above what they bind, never by those whom they bind."""
        principal = self.principal(request)
        if obj is None or principal.is_platform_admin:
            return True
        if isinstance(obj, Organization):
            return False
        return principal.rank_over(obj.organization_id, getattr(obj, "team_id", None)) >= ADMIN


class FirstLimitsInline(LimitInline):
    """On the form of a new key: out of the way, because its preset has limits already."""

    classes = ("collapse",)
    verbose_name_plural = "limits beside those of the preset"
