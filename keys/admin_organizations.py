"""Organizations and teams in the admin."""

from __future__ import annotations

from typing import Any, ClassVar
from zoneinfo import available_timezones

from django import forms
from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminSelectWidget,
)

from keys.admin_limits import LimitInline
from keys.models import Organization, Team
from keys.principal import ADMIN
from keys.scoped_admin import ScopedAdmin, ScopedRelatedFilter, action


def time_zones() -> list[tuple[str, str]]:
    return [(name, name) for name in sorted(available_timezones()) if "/" in name or name == "UTC"]


class OrganizationForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    time_zone = forms.ChoiceField(
        choices=time_zones,
        initial="UTC",
        widget=UnfoldAdminSelectWidget,
        help_text="Days, weeks and months of limits follow it.",
    )


@admin.register(Organization)
class OrganizationAdmin(ScopedAdmin):
    form = OrganizationForm
    topic = "keys"
    audit_name = "organization"
    list_display = ("titled", "state", "teams_count", "keys_count", "time_zone")
    search_fields = ("name", "slug")
    prepopulated_fields: ClassVar[Any] = {"slug": ("name",)}
    inlines = (LimitInline,)
    fieldsets = ((None, {"fields": ("name", "slug", "status", "time_zone")}),)
    actions_detail = ("alerts",)

    def get_queryset(self, request: HttpRequest) -> Any:
        return (
            super()
            .get_queryset(request)
            .annotate(
                teams_total=Count("teams", distinct=True),
                keys_total=Count("keys", filter=Q(keys__state="active"), distinct=True),
            )
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A tenant cannot lift its own suspension."""
        return () if self.principal(request).is_platform_admin else ("slug", "status")

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return {} if obj is not None else self.prepopulated_fields

    @action(description="Alerts", icon="notifications", permissions=["change"])
    def alerts(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Who is told of limits: on a page of its own, which can also try it."""
        organization = self.visible(request, object_id, "change")
        return HttpResponseRedirect(reverse("admin:organization_alerts", args=[organization.pk]))

    @display(description="Name", ordering="name", header=True)
    def titled(self, row: Organization) -> list[str]:
        return [row.name, row.slug]

    @display(description="State", label={"Active": "success", "Suspended": "danger"})
    def state(self, row: Organization) -> str:
        return row.get_status_display()

    @display(description="Teams", ordering="teams_total")
    def teams_count(self, row: Any) -> str:
        return format_html('<span class="gh-figure">{}</span>', row.teams_total)

    @display(description="Active keys", ordering="keys_total")
    def keys_count(self, row: Any) -> str:
        return format_html('<span class="gh-figure">{}</span>', row.keys_total)


@admin.register(Team)
class TeamAdmin(ScopedAdmin):
    topic = "keys"
    audit_name = "team"
    list_display = ("titled", "organization", "keys_count")
    list_filter = (("organization", ScopedRelatedFilter),)
    list_select_related = ("organization",)
    search_fields = ("name", "slug", "organization__name")
    prepopulated_fields: ClassVar[Any] = {"slug": ("name",)}
    inlines = (LimitInline,)
    fields = ("organization", "name", "slug")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(keys_total=Count("keys", filter=Q(keys__state="active")))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("organization",) if obj else ()

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return {} if obj is not None else self.prepopulated_fields

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return self.principal(request).scope(chosen, rank=ADMIN)

    @display(description="Name", ordering="name", header=True)
    def titled(self, row: Team) -> list[str]:
        return [row.name, row.slug]

    @display(description="Active keys", ordering="keys_total")
    def keys_count(self, row: Any) -> str:
        return format_html('<span class="gh-figure">{}</span>', row.keys_total)
