"""Virtual keys in the admin. A secret is shown once, by proxy_site/console/issued.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q, QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.decorators import display
from unfold.views import ChangeList

from keys import audit, issue, once, presets
from keys.admin_key_forms import KeyForm, NewKeyForm, free_name, places
from keys.admin_key_steps import RevokeForm, RotateForm, StepForm, ToggleForm
from keys.admin_limits import FirstLimitsInline, LimitInline
from keys.dates import ago
from keys.models import KeySecret, User, VirtualKey
from keys.principal import ADMIN, MEMBER
from keys.scoped_admin import ScopedAdmin, ScopedInline, ScopedRelatedFilter, action, actor_of


class SecretsInline(ScopedInline):
    """What a key's secrets are recognised by. Nothing here could show one."""

    model = KeySecret
    fields = readonly_fields = ("hint", "made", "used", "ends")
    hide_title = True
    verbose_name_plural = "secrets"
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="Made")
    def made(self, row: KeySecret) -> str:
        return ago(row.created_at)

    @admin.display(description="Last used")
    def used(self, row: KeySecret) -> str:
        return ago(row.last_used_at)

    @admin.display(description="Ends")
    def ends(self, row: KeySecret) -> str:
        if row.revoked_at:
            return format_html("revoked {}", ago(row.revoked_at))
        return ago(row.valid_until)


class KeyList(ChangeList):
    """A name leads to the key's page; its settings are one click further."""

    def url_for_result(self, result: Any) -> str:
        return reverse("admin:key_page", args=[result.pk])


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("expired", "Expired"), ("disabled", "Disabled"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        expired = Q(expires_at__lte=timezone.now())
        match self.value():
            case "active":
                return queryset.filter(~expired | Q(expires_at=None), state="active")
            case "expired":
                return queryset.filter(expired, state="active")
            case "disabled" | "revoked" as state:
                return queryset.filter(state=state)
        return queryset


@admin.register(VirtualKey)
class VirtualKeyAdmin(ScopedAdmin):
    topic = "keys"
    audit_name = "key"
    list_display = ("titled", "belongs", "state_label", "models", "expires", "used")
    list_filter = (StateFilter, ("organization", ScopedRelatedFilter), ("team", ScopedRelatedFilter))
    list_select_related = ("organization", "team")
    search_fields = ("name", "secrets__hint", "owner__email", "team__name")
    search_help_text = "Name, the last characters of a secret, owner or team"
    ordering = ("-created_at",)
    actions = ("disable_selected", "enable_selected", "revoke_selected")
    actions_row = ("settings", "use", "requests", "rotate", "clone", "toggle", "revoke")
    actions_detail = ("key_page", "rotate")
    more = (
        "owner", "expires_at", "denied_models", "scopes", "networks", "tags", "strict_fields", "log_bodies", "outage_policy",
    )  # fmt: skip

    class Media:
        js = (Script("gatehouse/key-form.js", type="module"),)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        return KeyList

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("secrets")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = KeyForm if obj else NewKeyForm
        made = super().get_form(request, obj, change, **kwargs)
        return type("BoundKeyForm", (made,), {"principal": self.principal(request)})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        models = ("access", "allowed_models")
        if obj is None:
            rest = "More options: models, owner, expiry, networks and the rest"
            return (
                (None, {"fields": ("name", "belongs_to", "preset")}),
                (rest, {"fields": (*models, *self.more), "classes": ("collapse",)}),
            )
        first = ("name", "organization", "team", *models)
        return ((None, {"fields": first}), ("More options", {"fields": self.more, "classes": ("collapse",)}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        if obj is None:
            return () if self._administers_somewhere(request) else ("owner", "log_bodies", "outage_policy")
        principal = self.principal(request)
        if principal.rank_over(obj.organization_id) >= ADMIN:
            return ("organization",)
        if principal.rank_over(obj.organization_id, obj.team_id) >= ADMIN:
            return ("organization", "team")  # a team's admin does not take a key out of reach of the team's limits
        return ("organization", "team", "owner", "log_bodies", "outage_policy")

    def _administers_somewhere(self, request: HttpRequest) -> bool:
        principal = self.principal(request)
        return principal.is_platform_admin or bool(principal.organizations_with(ADMIN) or principal.teams_with(ADMIN))

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        if obj is None:
            return (FirstLimitsInline,) if self._administers_somewhere(request) else ()
        return (LimitInline, SecretsInline)

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        principal = self.principal(request)
        if db_field.name == "team":
            return principal.scope(chosen, rank=MEMBER)
        return principal.scope(chosen)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """On a key's own page: teams and people of its organization."""
        found = super().formfield_for_foreignkey(db_field, request, **kwargs)
        match = request.resolver_match
        key_id = match.kwargs.get("object_id") if match else None
        if key_id and found is not None:
            organization = VirtualKey.objects.filter(pk=key_id).values("organization_id")
            queryset = cast(Any, found).queryset
            if db_field.name == "team":
                cast(Any, found).queryset = queryset.filter(organization_id__in=organization)
            if db_field.name == "owner":
                cast(Any, found).queryset = queryset.filter(memberships__organization_id__in=organization).distinct()
        return found

    # Making one

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """One button: whatever is pressed, the next page shows the secret."""
        if request.method == "GET" and not places(self.principal(request)) and self.has_add_permission(request):
            messages.warning(request, "A key belongs to an organization: make one first.")
            return HttpResponseRedirect(reverse("admin:keys_organization_changelist"))
        shown = {"show_save_and_add_another": False, "show_save_and_continue": False, **(extra_context or {})}
        return super().add_view(request, form_url, shown)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """?clone=ID: everything of that key but its secret, its name and its history."""
        source = self._cloned(request)
        if source is None:
            return super().get_changeform_initial_data(request)
        place = f"{source.organization_id}/{source.team_id}" if source.team_id else str(source.organization_id)
        allowed = source.allowed_models
        alike = {name: getattr(source, name) for name in (*self.more, "allowed_models")}
        return {
            **alike,
            "name": free_name(source),
            "belongs_to": place,
            "access": "every" if allowed is None else "these" if allowed else "none",
        }

    def _cloned(self, request: HttpRequest) -> VirtualKey | None:
        key_id = request.GET.get("clone")
        return cast(VirtualKey, self._visible_row(request, key_id)) if key_id else None

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The limits of the form, then those of its preset and of the key that was cloned."""
        super().save_related(request, form, formsets, change)
        if change:
            return
        key, source = form.instance, self._cloned(request)
        preset = presets.BY_ID.get(form.cleaned_data.get("preset") or "", presets.PRESETS[0])
        made = presets.missing(key, preset)
        for limit in made:
            limit.save(force_insert=True)
        more = presets.copied(key, source) if source else []
        for limit in more:
            limit.save(force_insert=True)
        for limit in (*made, *more):
            told = audit.differences(None, limit, ("metric", "amount", "period", "pattern", "hard"))
            audit.record(actor_of(request), "limit.created", limit, told, key.organization_id)
        if made or more:
            self.announce(key)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            obj.allowed_models = form.cleaned_data.get("allowed_models", obj.allowed_models)
            super().save_model(request, obj, form, change)
            return
        given = form.cleaned_data
        made, secret = issue.issue(
            organization=obj.organization,
            name=given["name"],
            team=obj.team,
            owner=given.get("owner"),
            allowed_models=given.get("allowed_models"),
            denied_models=given.get("denied_models") or [],
            scopes=given.get("scopes"),
            networks=given.get("networks"),
            expires_at=given.get("expires_at"),
            actor=actor_of(request),
            tags=given.get("tags") or [],
            strict_fields=given.get("strict_fields", False),
            log_bodies=given.get("log_bodies", False),
            outage_policy=given.get("outage_policy") or "local",
            created_by=cast(User, request.user),
        )
        obj.__dict__.update(
            {name: value for name, value in made.__dict__.items() if name != "_prefetched_objects_cache"}
        )
        request._issued_secret = secret  # type: ignore[attr-defined]  # for response_add, in this same request

    def response_add(self, request: HttpRequest, obj: VirtualKey, post_url_continue: str | None = None) -> HttpResponse:
        secret = request.__dict__.pop("_issued_secret")
        return self._to_secret(request, obj, secret)

    def _to_secret(self, request: HttpRequest, key: VirtualKey, secret: str) -> HttpResponse:
        response = HttpResponseRedirect(reverse("admin:key_secret", args=[key.pk]))
        return once.hand_over(request, response, str(key.pk), secret)

    # What can be done to one

    @action(description="Settings", icon="settings", permissions=["change"])
    def settings(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.visible(request, object_id)
        return HttpResponseRedirect(reverse("admin:keys_virtualkey_change", args=[key.pk]))

    @action(description="Usage and limits", icon="monitoring", permissions=["view"], url_path="to-page")
    def key_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:key_page", args=[self.visible(request, object_id).pk]))

    @action(description="How to use it", icon="integration_instructions", permissions=["view"])
    def use(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:key_secret", args=[self.visible(request, object_id).pk]))

    @action(description="Requests", icon="receipt_long", permissions=["view"])
    def requests(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.visible(request, object_id)
        return HttpResponseRedirect(f"{reverse('admin:usage_requestrecord_changelist')}?key={key.pk}")

    @action(description="Rotate the secret", icon="autorenew", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._step(request, object_id, RotateForm)

    @action(description="Clone", icon="content_copy", permissions=["add"])
    def clone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.visible(request, object_id)
        return HttpResponseRedirect(f"{reverse('admin:keys_virtualkey_add')}?clone={key.pk}")

    @action(description="Disable / enable", icon="pause_circle", permissions=["change"])
    def toggle(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._step(request, object_id, ToggleForm)

    @action(description="Revoke", icon="block", permissions=["change"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._step(request, object_id, RevokeForm)

    def _step(self, request: HttpRequest, object_id: str, form_class: type[StepForm]) -> HttpResponse:
        """Ask once, then do it."""
        key = self.visible(request, object_id, "change")
        if key.state == VirtualKey.State.REVOKED:
            messages.error(request, f"{key.name} is revoked for good. Make a new key instead.")
            return HttpResponseRedirect(reverse("admin:key_page", args=[key.pk]))
        form = form_class(key, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            name = form.title
            if secret := form.do(request):
                return self._to_secret(request, key, secret)
            messages.success(request, f"{name}: done for {key.name}.")
            return HttpResponseRedirect(reverse("admin:key_page", args=[key.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": form.title,
            "subtitle": key.name,
            "opts": self.opts,
            "original": key,
            "key": key,
            "form": form,
        }
        return TemplateResponse(request, "gatehouse/step.html", context)

    @admin.action(description="Disable the chosen keys")
    def disable_selected(self, request: HttpRequest, queryset: QuerySet[VirtualKey]) -> None:
        self._each(request, queryset.filter(state="active"), issue.disable, "disabled")

    @admin.action(description="Enable the chosen keys")
    def enable_selected(self, request: HttpRequest, queryset: QuerySet[VirtualKey]) -> None:
        self._each(request, queryset.filter(state="disabled"), issue.enable, "enabled")

    @admin.action(description="Revoke the chosen keys")
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[VirtualKey]) -> HttpResponse | None:
        """Asks first: revoking cannot be undone."""
        keys = self._changeable(request, queryset.exclude(state=VirtualKey.State.REVOKED))
        wanted = f"revoke {len(keys)}"
        typed = request.POST.get("typed")
        if not keys:
            messages.error(request, "None of the chosen keys is left to revoke, or yours to revoke.")
            return None
        if typed is not None and typed.strip().lower() == wanted:
            self._each(request, queryset.exclude(state=VirtualKey.State.REVOKED), issue.revoke, "revoked")
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Revoke keys",
            "opts": self.opts,
            "keys": keys,
            "wanted": wanted,
            "mistyped": typed is not None,
            "checkbox": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "gatehouse/revoke_many.html", context)

    def _changeable(self, request: HttpRequest, keys: QuerySet[VirtualKey]) -> list[VirtualKey]:
        principal = self.principal(request)
        return [key for key in keys if principal.may("change", key)]

    def _each(self, request: HttpRequest, keys: QuerySet[VirtualKey], do: Callable[..., Any], done: str) -> None:
        mine = self._changeable(request, keys)
        for key in mine:
            do(key, actor_of(request))
        messages.success(request, f"{len(mine)} {'key' if len(mine) == 1 else 'keys'} {done}.")

    # The list

    @display(description="Name", ordering="name", header=True)
    def titled(self, row: VirtualKey) -> list[str]:
        secrets = [secret.hint for secret in row.secrets.all() if secret.revoked_at is None]
        return [row.name, secrets[0] if secrets else "no secret"]

    @display(description="Belongs to", ordering="organization__name", header=True)
    def belongs(self, row: VirtualKey) -> list[str]:
        return [row.organization.name, row.team.name if row.team else ""]

    @display(
        description="State",
        ordering="state",
        label={"Active": "success", "Disabled": "warning", "Expired": "warning", "Revoked": "danger"},
    )
    def state_label(self, row: VirtualKey) -> str:
        expired = row.state == "active" and not row.is_live
        return "Expired" if expired else row.get_state_display()

    @display(description="Models")
    def models(self, row: VirtualKey) -> str:
        if row.allowed_models is None:
            return "every model" if not row.denied_models else f"all but {', '.join(row.denied_models[:2])}"
        if not row.allowed_models:
            return "none"
        more = len(row.allowed_models) - 2
        return ", ".join(row.allowed_models[:2]) + (f" +{more}" if more > 0 else "")

    @display(description="Expires", ordering="expires_at")
    def expires(self, row: VirtualKey) -> str:
        return ago(row.expires_at)

    @display(description="Last used", ordering="last_used_at")
    def used(self, row: VirtualKey) -> str:
        return ago(row.last_used_at)
