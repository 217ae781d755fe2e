"""Connections, models and deployments in the admin. A credential goes in and never comes out."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from keys.dates import ago
from keys.form_fields import HeadersField, LinesField
from keys.principal import ADMIN, Principal
from keys.scoped_admin import ScopedAdmin, ScopedInline
from routing import addresses, credentials
from routing.backends import BACKENDS, choices
from routing.backends.base import CredentialField, Option
from routing.models import Connection, Deployment, PublicModel

GROUPS_LABEL = "credential_group"


def option_field(option: Option) -> forms.Field:
    """One setting of a backend as a form field."""
    shown: dict[str, Any] = {"label": option.label, "help_text": option.help, "initial": option.default}
    if option.choices:
        listed = [(each, each) for each in option.choices]
        if not option.required:
            listed.insert(0, ("", "Default"))
        return forms.ChoiceField(choices=listed, required=option.required, widget=UnfoldAdminSelectWidget, **shown)
    return forms.CharField(required=option.required, max_length=500, widget=UnfoldAdminTextInputWidget, **shown)


def credential_field(part: CredentialField) -> forms.Field:
    """One part of a credential: write-only, so it never has an initial value and never renders one."""
    if part.switch:
        return forms.BooleanField(
            label=part.label, help_text=part.help, required=False, widget=UnfoldBooleanSwitchWidget
        )
    widget: forms.Widget
    if part.multiline:
        widget = WriteOnlyTextarea(attrs={"rows": 4, "autocomplete": "off", "spellcheck": "false"})
    else:
        widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})
    return forms.CharField(label=part.label, help_text=part.help, required=False, strip=True, widget=widget)


class WriteOnlyTextarea(UnfoldAdminTextareaWidget):
    """A text area that never shows what was typed, not even after a form error."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        return super().get_context(name, None, attrs)


class ConnectionForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """The fields every kind has; `form_for` adds the options and credential parts of one kind."""

    principal: Principal
    kind_of_form: str
    base_url = forms.CharField(
        label="Base URL",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"spellcheck": "false"}),
        help_text="Another host clears the credential, so that nobody can send it somewhere else.",
    )
    extra_headers = HeadersField(rows=2, help_text="One header a line, as in X-Project: blue. Sent with every call.")

    class Meta:
        model = Connection
        fields = ("name", "organization", "kind", "base_url", "extra_headers", "allow_private", "enabled")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (self.instance.options or {}).items():
            if f"option_{name}" in self.fields:
                self.fields[f"option_{name}"].initial = value
        backend = BACKENDS[self.kind_of_form]
        if backend.base_url and "base_url" in self.fields:
            self.fields["base_url"].widget.attrs["placeholder"] = backend.base_url
        if self.instance._state.adding and "base_url" in self.fields and (backend.base_url or backend.own_address):
            self.fields["base_url"].help_text = backend.base_url_help or "Empty: the provider's own address."

    def clean_base_url(self) -> str:
        return str(self.cleaned_data["base_url"]).strip().rstrip("/")

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        self._check_owner(given)
        self._check_address(given)
        self.credential = self._read_credential(given)
        moved = credentials.origin(self.initial.get("base_url", "")) != credentials.origin(given.get("base_url", ""))
        self.clears_credential = bool(self.instance.sealed_credential and moved and not self.credential)
        return given

    def _check_owner(self, given: dict[str, Any]) -> None:
        if not self.principal.is_platform_admin and "organization" in self.fields and given.get("organization") is None:
            self.add_error("organization", "Only a platform admin makes connections for everyone.")

    def _check_address(self, given: dict[str, Any]) -> None:
        url = given.get("base_url")
        if not url:
            backend = BACKENDS[self.kind_of_form]
            if "base_url" in self.fields and not (backend.base_url or backend.own_address):
                self.add_error("base_url", "This kind has no address of its own: give one.")
            return
        try:
            addresses.check_url(url, given.get("allow_private", self.instance.allow_private))
        except addresses.AddressRefused as error:
            self.add_error("base_url", str(error))

    def _read_credential(self, given: dict[str, Any]) -> dict[str, str]:
        """The parts that were filled in, of exactly one group; {} leaves things as they are."""
        parts = BACKENDS[self.kind_of_form].credential_fields
        told = {part.name: given.get(f"credential_{part.name}") for part in parts}
        filled = {name: "true" if value is True else str(value) for name, value in told.items() if value}
        groups = {part.group for part in parts if part.name in filled}
        if len(groups) > 1:
            self.add_error(None, "Give one kind of credential, not several.")
            return {}
        for part in parts:
            if groups == {part.group} and part.required and not part.switch and part.name not in filled:
                self.add_error(f"credential_{part.name}", "This part is needed too.")
        self._check_references(filled)
        return filled

    def _check_references(self, filled: dict[str, str]) -> None:
        """What is the server's own, its environment (`ref:NAME`) and its identity (a switch), is lent by platform admins
        alone: a tenant who also says where calls go would carry it off."""
        switches = {part.name for part in BACKENDS[self.kind_of_form].credential_fields if part.switch}
        for name, value in filled.items():
            switch, reference = name in switches, value.startswith(credentials.REFERENCE)
            if (switch or reference) and not self.principal.is_platform_admin:
                what = "use this server's own identity" if switch else "refer to the server's environment"
                self.add_error(f"credential_{name}", f"Only a platform admin may {what}.")
            elif reference:
                try:
                    credentials.check_reference(value)
                except credentials.CredentialError as error:
                    self.add_error(f"credential_{name}", str(error))

    def options(self) -> dict[str, str]:
        return {
            name.removeprefix("option_"): value
            for name, value in self.cleaned_data.items()
            if name.startswith("option_") and value
        }


def form_for(kind: str, principal: Principal) -> type[ConnectionForm]:
    """The connection form of one kind of backend, generated from what the backend says of itself."""
    backend = BACKENDS[kind]
    fields: dict[str, Any] = {f"option_{option.name}": option_field(option) for option in backend.options}
    fields |= {f"credential_{part.name}": credential_field(part) for part in backend.credential_fields}
    return type("ConnectionFormOfKind", (ConnectionForm,), {**fields, "kind_of_form": kind, "principal": principal})


@admin.register(Connection)
class ConnectionAdmin(ScopedAdmin):
    topic = "catalog"
    audit_name = "connection"
    list_display = ("titled", "kind_label", "credential", "deployments_count", "state")
    list_filter = (("kind", ChoicesDropdownFilter), "enabled")
    list_select_related = ("organization",)
    search_fields = ("name", "base_url")
    change_form_after_template = "gatehouse/connection_after.html"

    class Media:
        js = (Script("gatehouse/connection.js", type="module"),)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(deployments_total=Count("deployments"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        own = () if self.principal(request).is_platform_admin else ("allow_private",)
        return (*own, "kind_label", "credential_shown", "whose") if obj else own

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        kind = self._kind(request, obj)
        if kind is None:
            return ((None, {"fields": ("name",)}),)
        backend = BACKENDS[kind]
        options = tuple(f"option_{option.name}" for option in backend.options)
        parts = tuple(f"credential_{part.name}" for part in backend.credential_fields)
        shown = ("credential_shown",) if obj else ()
        first = ("name", *(("whose", "kind_label") if obj else ("organization",)), "base_url", *options, "enabled")
        return (
            (None, {"fields": first}),
            ("Credential", {"fields": (*shown, *parts), "description": self._credential_words(backend, obj)}),
            ("More options", {"fields": ("extra_headers", "allow_private"), "classes": ("collapse",)}),
        )

    def _credential_words(self, backend: Any, obj: Any) -> str:
        groups = list(dict.fromkeys(part.group for part in backend.credential_fields))
        words = (
            "Sealed when saved, and never shown again. Leave it empty to keep what is there."
            if obj
            else ("Sealed when saved, and never shown again.")
        )
        if len(groups) > 1:
            words += " Fill in one kind of credential only."
        return words

    def _kind(self, request: HttpRequest, obj: Any) -> str | None:
        kind = obj.kind if obj else request.GET.get("kind", "")
        return kind if kind in BACKENDS else None

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kind = self._kind(request, obj) or next(iter(BACKENDS))
        kwargs["form"] = form_for(kind, self.principal(request))
        kwargs["fields"] = [name for name in ConnectionForm.Meta.fields if name != "kind"]
        if obj:
            kwargs["fields"].remove("organization")
        if not self.principal(request).is_platform_admin:
            kwargs["fields"].remove("allow_private")
        return super().get_form(request, obj, change, **kwargs)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """First which kind, then its own form."""
        if not self.has_add_permission(request):
            self.refuse("add")
        if self._kind(request, None) is None:
            kinds = [
                {"kind": kind, "label": label, "base_url": BACKENDS[kind].base_url, "language": BACKENDS[kind].language}
                for kind, label in choices()
            ]
            context = {
                **self.admin_site.each_context(request),
                "title": "Add a connection",
                "kinds": kinds,
                "opts": self.opts,
            }
            return TemplateResponse(request, "gatehouse/connection_kind.html", context)
        return super().add_view(request, form_url, extra_context)

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return self.principal(request).scope(chosen, rank=ADMIN)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        found = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "organization" and found is not None:
            found.empty_label = "Everyone's" if self.principal(request).is_platform_admin else None
            found.required = not self.principal(request).is_platform_admin
        return found

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.kind = str(self._kind(request, None))
        before = dict(obj.options or {})
        obj.options = form.options()
        if form.clears_credential:
            credentials.clear(obj)
            messages.warning(request, "The base URL changed, so the credential was cleared. Give it again.")
        if form.credential:
            credentials.seal(obj, form.credential)
        super().save_model(request, obj, form, change)
        if change and before != obj.options:
            self.record(request, "options_changed", obj, {"options": [before, obj.options]})

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        messages.success(request, f"{obj.name} is there. Test it, then add a model that uses it.")
        return HttpResponseRedirect(reverse("admin:routing_connection_change", args=[obj.pk]))

    @display(description="Name", ordering="name", header=True)
    def titled(self, row: Connection) -> list[str]:
        return [row.name, row.organization.name if row.organization else "everyone's"]

    @display(description="Kind", ordering="kind")
    def kind_label(self, row: Connection) -> str:
        return BACKENDS[row.kind].label if row.kind in BACKENDS else f"{row.kind} (not installed)"

    @display(description="Organization")
    def whose(self, row: Connection) -> str:
        return row.organization.name if row.organization else "everyone's"

    @display(description="Credential")
    def credential(self, row: Connection) -> str:
        if not row.sealed_credential:
            return format_html('<span class="gh-warn">{}</span>', "none")
        return format_html('<span class="gh-mono">{}</span>', row.credential_hint)

    @display(description="Credential set")
    def credential_shown(self, row: Connection) -> str:
        if not row.sealed_credential:
            return format_html('<span class="gh-warn">{}</span>', "None yet: calls will be refused by the provider.")
        return format_html('<span class="gh-mono">{}</span> · set {}', row.credential_hint, ago(row.credential_set_at))

    @display(description="Deployments", ordering="deployments_total")
    def deployments_count(self, row: Any) -> str:
        return format_html('<span class="gh-figure">{}</span>', row.deployments_total)

    @display(description="State", label={"Enabled": "success", "Disabled": "warning"})
    def state(self, row: Connection) -> str:
        return "Enabled" if row.enabled else "Disabled"


# Models and their deployments


class DeploymentForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        connection, model = given.get("connection"), given.get("model") or getattr(self.instance, "model", None)
        if connection and model and connection.organization_id not in (None, model.organization_id):
            self.add_error("connection", f"{connection} belongs to another organization than this model.")
        return given


class DeploymentInline(ScopedInline):
    model = Deployment
    form = DeploymentForm
    fields = ("connection", "upstream_model", "priority", "weight", "enabled", "more")
    readonly_fields = ("more",)
    hide_title = True
    verbose_name_plural = "deployments: who answers, lowest priority first"

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return self.principal(request).scope(chosen, rank=ADMIN)

    @admin.display(description="Time-outs, limits")
    def more(self, row: Deployment) -> str:
        if row._state.adding:
            return ""
        url = reverse("admin:routing_deployment_change", args=[row.pk])
        return format_html('<a class="gh-link" href="{}">{}</a>', url, "Settings and test")


class PublicModelForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    principal: Principal
    aliases = LinesField(empty=[], rows=2, help_text="Other names that mean this model, one a line.")
    fallback_models = LinesField(
        empty=[], rows=2, help_text="Models to try when every deployment is out, one a line, in order."
    )

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]).strip().removeprefix("models/")

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        owner = given.get("organization", getattr(self.instance, "organization", None))
        if not self.principal.is_platform_admin and owner is None:
            self.add_error(None, "Only a platform admin makes models for everyone.")
        names = {given.get("name"), *(given.get("aliases") or [])}
        others = PublicModel.objects.filter(organization=owner).exclude(pk=self.instance.pk)
        taken = {name for model in others for name in (model.name, *model.aliases)} & names
        if taken:
            self.add_error("aliases", f"Taken by another model: {', '.join(sorted(map(str, taken)))}.")
        return given


@admin.register(PublicModel)
class PublicModelAdmin(ScopedAdmin):
    topic = "catalog"
    audit_name = "model"
    list_display = ("titled", "owner", "strategy", "deployments_count", "state")
    list_filter = (("strategy", ChoicesDropdownFilter), "enabled")
    list_select_related = ("organization",)
    search_fields = ("name", "display_name")
    inlines = (DeploymentInline,)
    more = (
        (
            "What the models list tells",
            {
                "fields": ("display_name", "description", ("input_token_limit", "output_token_limit")),
                "classes": ("collapse",),
            },
        ),
        (
            "Behaviour",
            {
                "fields": (
                    "fallback_models",
                    "retry_empty",
                    "strict_fields",
                    "unpriced",
                    ("first_byte_timeout", "idle_timeout", "total_timeout"),
                ),
                "classes": ("collapse",),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        return (
            super()
            .get_queryset(request)
            .annotate(deployments_total=Count("deployments", filter=Q(deployments__enabled=True)))
        )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = PublicModelForm
        made = super().get_form(request, obj, change, **kwargs)
        return type("BoundModelForm", (made,), {"principal": self.principal(request)})

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("owner",) if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        first = ("name", "owner" if obj else "organization", "aliases", "strategy", "enabled")
        return ((None, {"fields": first}), *self.more)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        """Everyone's models are seen by all, their deployments by platform admins alone."""
        return self.inlines if obj is None or self.principal(request).may("change", obj) else ()

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return self.principal(request).scope(chosen, rank=ADMIN)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        found = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "organization" and found is not None:
            found.empty_label = "Everyone's" if self.principal(request).is_platform_admin else None
        return found

    def response_add(
        self, request: HttpRequest, obj: PublicModel, post_url_continue: str | None = None
    ) -> HttpResponse:
        if not obj.deployments.exists():
            messages.warning(request, "Nobody answers for this model yet: add a deployment below.")
            return HttpResponseRedirect(reverse("admin:routing_publicmodel_change", args=[obj.pk]))
        return super().response_add(request, obj, post_url_continue)

    @display(description="Name", ordering="name", header=True)
    def titled(self, row: PublicModel) -> list[str]:
        return [row.name, ", ".join(row.aliases)]

    @display(description="Whose", ordering="organization__name")
    def owner(self, row: PublicModel) -> str:
        return row.organization.name if row.organization else "everyone's"

    @display(description="Deployments", ordering="deployments_total")
    def deployments_count(self, row: Any) -> str:
        kind = "gh-figure" if row.deployments_total else "gh-figure gh-warn"
        return format_html('<span class="{}">{}</span>', kind, row.deployments_total or "none")

    @display(description="State", label={"Enabled": "success", "Disabled": "warning"})
    def state(self, row: PublicModel) -> str:
        return "Enabled" if row.enabled else "Disabled"


class FullDeploymentForm(DeploymentForm):
    """A deployment's own page: with its options as fields of its backend's kind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (self.instance.options or {}).items():
            if f"option_{name}" in self.fields:
                self.fields[f"option_{name}"].initial = value

    def save(self, commit: bool = True) -> Any:
        known = [name for name in self.cleaned_data if name.startswith("option_")]
        if known:
            given = {name.removeprefix("option_"): self.cleaned_data[name] for name in known}
            kept = {name: value for name, value in (self.instance.options or {}).items() if name not in given}
            self.instance.options = kept | {name: value for name, value in given.items() if value}
        return super().save(commit)


@admin.register(Deployment)
class DeploymentAdmin(ScopedAdmin):
    topic = "catalog"
    audit_name = "deployment"
    list_display = ("titled", "model", "priority_weight", "caps", "state")
    list_filter = ("enabled", "draining")
    list_select_related = ("model", "connection")
    search_fields = ("upstream_model", "model__name", "connection__name")
    change_form_after_template = "gatehouse/connection_after.html"

    class Media:
        js = (Script("gatehouse/connection.js", type="module"),)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        options = tuple(f"option_{option.name}" for option in self._options(obj))
        more = (
            (("Options that differ from the connection's", {"fields": options, "classes": ("collapse",)}),)
            if options
            else ()
        )
        return (
            (
                None,
                {
                    "fields": (
                        "model",
                        "connection",
                        "upstream_model",
                        "base_model",
                        ("priority", "weight"),
                        "enabled",
                        "draining",
                    )
                },
            ),
            (
                "What the provider allows: at most so much is sent there",
                {
                    "fields": (("requests_per_minute", "tokens_per_minute", "max_parallel"),),
                    "classes": ("collapse",),
                },
            ),
            (
                "Time-outs in seconds; empty takes the model's, then the server's",
                {
                    "fields": (("connect_timeout", "first_byte_timeout"), ("idle_timeout", "total_timeout")),
                    "classes": ("collapse",),
                },
            ),
            *more,
            ("More", {"fields": ("exact_token_count",), "classes": ("collapse",)}),
        )

    def _options(self, obj: Any) -> list[Option]:
        return list(BACKENDS[obj.connection.kind].options) if obj and obj.connection.kind in BACKENDS else []

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        fields = {f"option_{option.name}": option_field(option) for option in self._options(obj)}
        for field in fields.values():
            field.required, field.initial = False, ""
        kwargs["form"] = type("DeploymentFormOfKind", (FullDeploymentForm,), fields)
        kwargs["fields"] = [
            name
            for _title, shown in self.get_fieldsets(request, obj)
            for entry in shown["fields"]
            for name in (entry if isinstance(entry, tuple) else (entry,))
            if not name.startswith("option_")
        ]
        kwargs["help_texts"] = {
            "upstream_model": "What the provider calls it.",
            "weight": "Its share among those of the same priority.",
        }
        return super().get_form(request, obj, change, **kwargs)

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return self.principal(request).scope(chosen, rank=ADMIN)

    @display(description="Deployment", ordering="upstream_model", header=True)
    def titled(self, row: Deployment) -> list[str]:
        return [row.upstream_model, row.connection.name]

    @display(description="Priority / weight", ordering="priority")
    def priority_weight(self, row: Deployment) -> str:
        return format_html('<span class="gh-figure">{} / {}</span>', row.priority, row.weight)

    @display(description="Upstream limits")
    def caps(self, row: Deployment) -> str:
        found = [
            f"{value:,} {unit}"
            for value, unit in (
                (row.requests_per_minute, "requests/min"),
                (row.tokens_per_minute, "tokens/min"),
                (row.max_parallel, "parallel"),
            )
            if value
        ]
        return ", ".join(found) or "none"

    @display(description="State", label={"Enabled": "success", "Draining": "info", "Disabled": "warning"})
    def state(self, row: Deployment) -> str:
        return "Disabled" if not row.enabled else "Draining" if row.draining else "Enabled"
