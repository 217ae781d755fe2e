"""The admin classes every room builds on: each list, form, choice, action and export asks the principal first.

What a person may not see is not there: a foreign id is a 404, never a 403 that tells it exists. Every change is
audited and announced, so that each process hears of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

from django import forms
from django.contrib.admin.options import BaseModelAdmin
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, ValidationError
from django.db.models import Field, ForeignKey, Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action as unfold_action

from keys import audit, notices
from keys.audit import Actor
from keys.models import Team
from keys.principal import ADMIN, Principal, Verb, principal_of

MASKED = "(hidden)"
Step = TypeVar("Step", bound=Callable[..., HttpResponse])


def action(**options: Any) -> Callable[[Step], Step]:
    """unfold's decorator, whose own annotation is the finished Action."""
    return cast(Callable[[Step], Step], unfold_action(**options))


def actor_of(request: HttpRequest) -> Actor:
    """Who changes something in the admin, for the audit trail."""
    address = str(request.META.get("REMOTE_ADDR", ""))
    return Actor(id=str(request.user.pk), name=str(request.user), source="admin", address=address)


def organization_of(row: Model) -> str:
    """The id of the organization a row belongs to, as text; "" for everyone's."""
    for path in ("organization_id", "key.organization_id", "team.organization_id", "model.organization_id"):
        found: Any = row
        for name in path.split("."):
            found = getattr(found, name, None)
        if found:
            return str(found)
    return str(row.pk) if row._meta.label_lower == "keys.organization" else ""


class Scoped(BaseModelAdmin):  # type: ignore[type-arg]  # of any model
    """What pages and inlines share: permissions and choices by principal."""

    def principal(self, request: HttpRequest) -> Principal:
        return principal_of(request)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return self.principal(request).scope(super().get_queryset(request))

    def _may(self, request: HttpRequest, verb: Verb, row: Any) -> bool:
        if isinstance(row, str):  # unfold hands its actions an id
            row = self._visible_row(request, row)
        return self.principal(request).may(verb, self.model if row is None else row)

    def _visible_row(self, request: HttpRequest, object_id: str) -> Any:
        try:
            return self.get_queryset(request).get(pk=object_id)
        except (ObjectDoesNotExist, ValidationError, ValueError):
            raise Http404 from None

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "view", None)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "view", obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "add", None)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "change", obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "delete", obj)

    def formfield_for_foreignkey(self, db_field: ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        related: Any = db_field.remote_field.model
        chosen = kwargs.get("queryset", related._default_manager.all())
        kwargs["queryset"] = self.choices_for(db_field, request, chosen)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """A foreign key is chosen here, not made or changed on the way."""
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        if isinstance(getattr(found, "widget", None), RelatedFieldWidgetWrapper):
            found.widget = found.widget.widget  # type: ignore[union-attr]  # just looked
        return found

    def choices_for(self, db_field: Field[Any, Any], request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        """What a foreign key may point to: what this person may see."""
        return self.principal(request).scope(chosen)


def where_roles_are_given(principal: Principal, field: str, chosen: QuerySet[Any]) -> QuerySet[Any]:
    """The choices of a form that gives a role: organizations and teams that this person administers."""
    if field == "organization" and not principal.is_platform_admin:
        teams = Team.objects.filter(pk__in=principal.teams_with(ADMIN)).values("organization_id")
        return chosen.filter(Q(pk__in=principal.organizations_with(ADMIN)) | Q(pk__in=teams))
    return principal.scope(chosen, rank=ADMIN if field == "team" else None)


class ScopedAdmin(Scoped, ModelAdmin):  # type: ignore[misc]  # unfold's own bases disagree about formfield_overrides
    """A page over one model, seen through the principal.

    topic: which cache holds these rows ("keys", "catalog"), announced after every change.
    audit_name: the first half of the audit action ("key" in "key.created").
    hidden_in_audit: fields whose values never reach the trail.
    """

    topic: ClassVar[str] = ""
    audit_name: ClassVar[str] = ""
    hidden_in_audit: ClassVar[frozenset[str]] = frozenset(
        {"password", "alert_webhook_secret", "sealed_credential", "extra_headers"}
    )
    # unfold declares the types of these as narrow as its defaults
    actions_row: Any = ()
    actions_detail: Any = ()
    add_fieldsets: Any = ()
    change_form_after_template: Any = None
    prepopulated_fields: ClassVar[Any] = {}
    list_filter_submit = True
    list_filter_sheet = True
    show_full_result_count = False
    list_per_page = 50

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row, or 404: also where Django would redirect with a message that tells the id was looked for."""
        found = super().get_object(request, object_id, from_field)
        if found is None:
            raise Http404
        found._as_loaded = values_of(found)
        return found

    def visible(self, request: HttpRequest, object_id: str, verb: Verb = "view") -> Any:
        """The row for a page of our own; 404 when it is foreign, 403 when it may only be looked at."""
        found = self.get_object(request, object_id)
        if not self.principal(request).may(verb, found):
            self.refuse(verb)
        return found

    def refuse(self, verb: Verb) -> None:
        raise PermissionDenied(f"Your role does not let you {verb} this.")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Deleting many at once skips the questions a single page asks, so only platform admins have it."""
        actions = super().get_actions(request)
        if not self.principal(request).is_platform_admin:
            actions.pop("delete_selected", None)
        return actions

    def announce(self, row: Model) -> None:
        if self.topic:
            notices.announce(self.topic, str(row.pk) if self.topic == "keys" and self.audit_name == "key" else "")

    def record(self, request: HttpRequest, verb: str, row: Model, changes: dict[str, Any]) -> None:
        audit.record(
            actor_of(request),
            action=f"{self.audit_name or row._meta.model_name}.{verb}",
            target=row,
            changes=changes,
            organization_id=organization_of(row),
        )

    def changes_of(self, form: forms.ModelForm[Any]) -> dict[str, Any]:
        """Field: [before, after], hidden where it must be."""
        found: dict[str, Any] = {}
        for name in form.changed_data:
            if name in self.hidden_in_audit or name.startswith("credential_"):
                found[name] = [MASKED, MASKED]
            else:
                found[name] = [plain(form.initial.get(name)), plain(form.cleaned_data.get(name))]
        return found

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """A change writes what it changes alone: a key revoked since the page was loaded stays revoked."""
        if change:
            if not type(obj)._default_manager.filter(pk=obj.pk).exists():
                raise Http404
            loaded = obj._as_loaded
            obj.save(update_fields=[name for name, value in values_of(obj).items() if value != loaded[name]])
        else:
            super().save_model(request, obj, form, change)
        self.record(request, "changed" if change else "created", obj, self.changes_of(form))
        self.announce(obj)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.record(request, "deleted", obj, {})
        self.announce(obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.delete_model(request, row)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Rows of inlines: each is audited on its own, the parent is announced."""
        super().save_formset(request, form, formset, change)
        name = formset.model._meta.model_name
        told: list[tuple[Model, str, dict[str, Any]]] = [(row, "created", {}) for row in formset.new_objects]
        told += [
            (row, "changed", self._inline_changes(formset, row, fields)) for row, fields in formset.changed_objects
        ]
        told += [(row, "deleted", {}) for row in formset.deleted_objects]
        for row, verb, changes in told:
            audit.record(
                actor_of(request),
                action=f"{name}.{verb}",
                target=row,
                changes=changes,
                organization_id=organization_of(form.instance),
            )
        if told:
            self.announce(form.instance)

    def _inline_changes(self, formset: Any, row: Model, fields: Sequence[str]) -> dict[str, Any]:
        form = next((each for each in formset.forms if each.instance is row), None)
        return self.changes_of(form) if form is not None else {name: [] for name in fields}

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Django's own log stays empty: AuditEvent is the one trail."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """As above."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """As above."""

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """The audit trail is the history of everything."""
        raise Http404


class ReadOnlyAdmin(ScopedAdmin):
    """Rows that happened: nobody adds, changes or deletes them here, a platform admin neither."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ScopedInline(Scoped, TabularInline):  # type: ignore[misc]  # as above
    """Rows under a parent the principal may already see: what the parent allows, they allow."""

    extra = 0
    show_change_link = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = self.model._default_manager.all()
        return rows

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """The columns' heads are no labels: each field says for itself what it is."""
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        if found is not None:
            found.widget.attrs.setdefault("aria-label", str(found.label or db_field.verbose_name))
        return found

    def _by_parent(self, request: HttpRequest, obj: Any) -> bool:
        return obj is None or self.principal(request).may("change", obj)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._by_parent(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._by_parent(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._by_parent(request, obj)


class ScopedRelatedFilter(RelatedDropdownFilter):
    """A list filter that offers only rows this person may see."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        rows = principal_of(request).scope(field.remote_field.model._default_manager.all())
        return [(row.pk, str(row)) for row in rows]


def values_of(row: Model) -> dict[str, Any]:
    """What the row has in each of its columns, by attribute; copies, because lists change in place."""
    return {each.attname: copy.copy(getattr(row, each.attname)) for each in row._meta.concrete_fields}


def plain(value: Any) -> Any:
    """A value as JSON can keep it in the trail."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value)


def same_organization(row: Any, other: Any, field: str) -> None:
    """Raise ValidationError on `field` unless `other` belongs to the organization of `row`, or to everyone."""
    if other is not None and other.organization_id != row.organization_id:
        raise ValidationError({field: f"{other} belongs to another organization."})


def default_organization(principal: Principal) -> Any:
    """The organization to preselect: the only one there is, else None."""
    found = list(principal.organizations.values_list("pk", flat=True)[:2])
    return cast(Any, found[0]) if len(found) == 1 else None
