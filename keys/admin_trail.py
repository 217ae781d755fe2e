"""The audit trail in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from keys.dates import ago
from keys.models import AuditEvent
from keys.scoped_admin import ReadOnlyAdmin


class TrailFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        kinds = ("key", "limit", "team", "organization", "membership", "user", "connection", "model", "deployment")
        return [(kind, kind.capitalize()) for kind in kinds]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(action__startswith=f"{self.value()}.") if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Who did what. Append-only: nobody changes or deletes it here."""

    list_display = ("when", "who", "action", "target", "difference")
    list_filter = (TrailFilter, ("source", ChoicesDropdownFilter))
    search_fields = ("actor", "target_name", "target_id", "action")
    ordering = ("-id",)
    readonly_fields = (
        "at",
        "actor",
        "source",
        "address",
        "action",
        "target_type",
        "target_name",
        "target_id",
        "difference",
    )
    fields = readonly_fields

    @display(description="When")
    def when(self, row: AuditEvent) -> str:
        return ago(row.at)

    @display(description="Who", header=True)
    def who(self, row: AuditEvent) -> list[str]:
        return [row.actor or "system", f"{row.get_source_display()} {row.address}".strip()]

    @display(description="Target", header=True)
    def target(self, row: AuditEvent) -> list[str]:
        return [row.target_name, row.target_type]

    @display(description="Difference")
    def difference(self, row: AuditEvent) -> str:
        told = [difference_line(name, pair) for name, pair in row.changes.items()]
        return format_html_join("", '<span class="gh-sub">{}</span>', ((each,) for each in told))


def difference_line(name: str, pair: Any) -> str:
    """One field's change in words: name: before → after."""
    if not isinstance(pair, list) or len(pair) != 2:
        return f"{name}: {pair}"
    before, after = ("none" if each in (None, "", []) else str(each) for each in pair)
    return f"{name}: {before} → {after}" if before != "none" else f"{name}: {after}"
