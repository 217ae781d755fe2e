"""Tenants, people, virtual keys and limits in the admin. A key's secret is shown once, by proxy_site/console/issued.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar, cast
from zoneinfo import available_timezones

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db.models import Count, Q, QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminRadioSelectWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from keys import admin_invitations as admin_invitations  # registers its page
from keys import audit, issue, once, presets
from keys.dates import ago
from keys.form_fields import ExpiryField, LinesField, NetworksField
from keys.models import AuditEvent, KeySecret, Limit, Membership, Organization, SecondFactor, Team, User, VirtualKey
from keys.principal import ADMIN, MEMBER, Principal
from keys.scoped_admin import ReadOnlyAdmin, ScopedAdmin, ScopedInline, ScopedRelatedFilter, action, actor_of

admin.site.unregister(Group)

ACTIONS = [
    ("generateContent", "generateContent"),
    ("streamGenerateContent", "streamGenerateContent"),
    ("countTokens", "countTokens"),
    ("embedContent", "embedContent"),
    ("batchEmbedContents", "batchEmbedContents"),
    ("listModels", "List models"),
]
ACCESS = [("every", "Every model"), ("these", "These models"), ("none", "No model")]
LARGEST_SPEND = Decimal(9_000_000)


# Limits: one plain table under a key, a team or an organization


class AmountField(forms.DecimalField):
    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value


class LimitForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    amount = AmountField(
        min_value=Decimal(0),
        max_value=Decimal(10) ** 15,
        max_digits=19,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal", "class": "gh-number", "aria-label": "Amount"}),
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


# Tenants


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


class MembershipForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """A member is named by mail address. Whoever is not known yet is made, without a password: see People."""

    principal: Principal
    email = forms.EmailField(
        label="Mail address",
        widget=UnfoldAdminEmailInputWidget,
        required=False,
        help_text="For somebody who has an account. Somebody new is better invited: see Invitations.",
    )

    class Meta:
        model = Membership
        fields = ("organization", "team", "role")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk and not self.instance._state.adding:
            del self.fields["email"]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        organization = given.get("organization") or getattr(self.instance, "organization", None)
        team, role = given.get("team"), given.get("role")
        if organization is None or role is None:
            return given
        if team is not None and team.organization_id != organization.pk:
            self.add_error("team", "This team belongs to another organization.")
        elif not self.principal.may_grant(role, organization.pk, team.pk if team else None):
            self.add_error("role", "You cannot grant a role above your own.")
        if "email" in self.fields:
            self._name_user(given, organization, team)
        return given

    def _name_user(self, given: dict[str, Any], organization: Organization, team: Team | None) -> None:
        email = (given.get("email") or "").strip().lower()
        if not email:
            self.add_error("email", "Whose membership is it? Give the mail address.")
            return
        user = User.objects.filter(email__iexact=email).first()
        if user and Membership.objects.filter(user=user, organization=organization, team=team).exists():
            self.add_error("email", f"{email} is a member here already: change that membership instead.")
        given["user"] = user or User(email=email, username=email)

    def save(self, commit: bool = True) -> Any:
        if "email" in self.fields:
            user = self.cleaned_data["user"]
            if user._state.adding:
                user.set_unusable_password()
                user.save()
            self.instance.user = user
        return super().save(commit)


@admin.register(Membership)
class MembershipAdmin(ScopedAdmin):
    form = MembershipForm
    audit_name = "membership"
    list_display = ("user", "organization", "team", "role_label", "since")
    list_filter = (("organization", ScopedRelatedFilter), ("role", ChoicesDropdownFilter))
    list_select_related = ("user", "organization", "team")
    search_fields = ("user__email", "organization__name", "team__name")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        made = super().get_form(request, obj, change, **kwargs)
        return type("BoundMembershipForm", (made,), {"principal": self.principal(request)})

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("user", "organization", "team", "role") if obj else ("email", "organization", "team", "role")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("user", "organization") if obj else ()

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        principal = self.principal(request)
        if db_field.name == "organization" and not principal.is_platform_admin:
            teams = Team.objects.filter(pk__in=principal.teams_with(ADMIN)).values("organization_id")
            return chosen.filter(Q(pk__in=principal.organizations_with(ADMIN)) | Q(pk__in=teams))
        return principal.scope(chosen, rank=ADMIN if db_field.name == "team" else None)

    @display(description="Role", label={"Owner": "primary", "Admin": "info"}, ordering="role")
    def role_label(self, row: Membership) -> str:
        return row.get_role_display()

    @display(description="Since", ordering="created_at")
    def since(self, row: Membership) -> str:
        return ago(row.created_at)


class NewUserForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    password = forms.CharField(
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Empty: none yet; somebody sets it later.",
    )

    class Meta:
        model = User
        fields = ("email", "first_name", "last_name", "is_superuser")

    def clean_email(self) -> str:
        email = str(self.cleaned_data["email"]).lower()
        if User.objects.filter(email__iexact=email).exists():
            raise ValidationError("There is somebody with this mail address already.")
        return email

    def clean_password(self) -> str:
        from django.contrib.auth.password_validation import validate_password  # noqa: PLC0415 - needs the settings

        password = str(self.cleaned_data.get("password") or "")
        if password:
            validate_password(password)
        return password

    def save(self, commit: bool = True) -> Any:
        user = super().save(commit=False)
        user.username = user.email
        if self.cleaned_data["password"]:
            user.set_password(self.cleaned_data["password"])
        else:
            user.set_unusable_password()
        if commit:
            user.save()
        return user


class MembershipsOfUser(ScopedInline):
    model = Membership
    fields = ("organization", "team", "role")
    verbose_name_plural = "memberships"


@admin.register(User)
class UserAdmin(ScopedAdmin, DjangoUserAdmin):  # type: ignore[type-arg, misc]  # generic only in the stubs; see ScopedAdmin
    """People. Only a platform admin changes them; what they may do in a tenant is their membership."""

    form = UserChangeForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    audit_name = "user"
    topic = "keys"
    list_display = ("titled", "kind", "signed_in")
    list_filter = ("is_superuser", "is_active")
    search_fields = ("email", "first_name", "last_name")
    ordering = ("email",)
    filter_horizontal = ()
    inlines = (MembershipsOfUser,)
    actions_detail: Any = ("remove_second_factor",)
    fieldsets = (
        (None, {"fields": ("email", "password", "first_name", "last_name")}),
        ("Sign-in", {"fields": ("is_active", "is_superuser")}),
    )
    add_fieldsets: Any = ((None, {"fields": ("email", "password", "first_name", "last_name", "is_superuser")}),)

    @action(description="Remove second factor", icon="phonelink_erase", permissions=["change"])
    def remove_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """For somebody who lost the app and the recovery codes."""
        person = cast(User, self.visible(request, object_id, "change"))
        back = HttpResponseRedirect(reverse("admin:keys_user_change", args=[person.pk]))
        factor = SecondFactor.objects.filter(user=person).first()
        if factor is None:
            messages.info(request, f"{person} has no second factor.")
            return back
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "title": "Second factor",
                "opts": self.opts,
                "person": person,
            }
            return TemplateResponse(request, "gatehouse/second_factor_remove.html", context)
        factor.delete()
        self.record(request, "second_factor_removed", person, {})
        messages.success(request, f"{person} signs in with the password alone, and can set up another.")
        return back

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return self.inlines if obj and self.principal(request).is_platform_admin else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.username = obj.email
        obj.is_staff = obj.is_superuser or (change and obj.memberships.exists())
        super().save_model(request, obj, form, change)

    @display(description="Person", ordering="email", header=True)
    def titled(self, row: User) -> list[str]:
        return [row.email, row.get_full_name()]

    @display(description="Kind", label={"Platform admin": "primary", "Blocked": "danger"})
    def kind(self, row: User) -> str:
        if not row.is_active:
            return "Blocked"
        return "Platform admin" if row.is_superuser else "Member" if row.is_staff else "Nobody yet"

    @display(description="Last sign-in", ordering="last_login")
    def signed_in(self, row: User) -> str:
        return ago(row.last_login)


# Virtual keys


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """What both making and changing a key ask for."""

    principal: Principal
    access = forms.ChoiceField(
        label="Models",
        choices=ACCESS,
        initial="every",
        widget=UnfoldAdminRadioSelectWidget,
        help_text="Which models this key may use. A model that is denied stays denied.",
    )
    allowed_models = LinesField(label="Allowed models", help_text="One name or pattern a line: gemini-2.5-*")
    denied_models = LinesField(empty=[], help_text="One name or pattern a line. Deny beats allow.")
    scopes = forms.MultipleChoiceField(
        label="Actions",
        required=False,
        choices=ACTIONS,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None chosen: all of them.",
    )
    networks = NetworksField(help_text="One CIDR range a line: 10.0.0.0/8. Empty: from anywhere.")
    expires_at = ExpiryField(label="Expires")
    tags = LinesField(empty=[], rows=2, each_max=50, help_text="One a line; they go into every record of a call.")

    class Meta:
        model = VirtualKey
        fields = (
            "name", "team", "owner", "allowed_models", "denied_models", "scopes", "networks", "expires_at", "tags",
            "strict_fields", "log_bodies", "outage_policy",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        allowed = self.instance.allowed_models
        if not self.instance._state.adding and "access" in self.fields:
            self.fields["access"].initial = "every" if allowed is None else "these" if allowed else "none"

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]).strip()

    def clean_allowed_models(self) -> list[str] | None:
        given = self.cleaned_data["allowed_models"]
        return issue.patterns(given) if given else given

    def clean_denied_models(self) -> list[str]:
        return issue.patterns(self.cleaned_data["denied_models"])

    def clean_networks(self) -> list[str] | None:
        given = self.cleaned_data["networks"]
        return issue.ranges(given) if given else None

    def clean_scopes(self) -> list[str] | None:
        return self.cleaned_data["scopes"] or None

    def clean_expires_at(self) -> Any:
        given = self.cleaned_data["expires_at"]
        if given and "expires_at" in self.changed_data and given <= timezone.now():
            raise ValidationError("This date has passed. To end a key now, disable or revoke it.")
        return given

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        match given.get("access"):
            case "every":
                given["allowed_models"] = None
            case "none":
                given["allowed_models"] = []
            case "these" if not given.get("allowed_models") and "allowed_models" not in self.errors:
                self.add_error("allowed_models", "Name at least one model, or choose “No model”.")
        return given


class NewKeyForm(KeyForm):
    """Three fields make a key: a name, whose it is, and what it may use."""

    belongs_to = forms.ChoiceField(label="Belongs to", widget=UnfoldAdminSelectWidget)
    preset = forms.ChoiceField(
        label="Preset",
        choices=presets.CHOICES,
        initial=presets.PRESETS[0].id,
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="The limits the key starts with; an administrator can change each of them later.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["belongs_to"].choices = places(self.principal)  # type: ignore[attr-defined]  # a ChoiceField

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        organization_id, _slash, team_id = str(given.get("belongs_to", "")).partition("/")
        if not organization_id:
            return given
        self.instance.organization = Organization.objects.get(pk=organization_id)
        self.instance.team = Team.objects.get(pk=team_id) if team_id else None
        if VirtualKey.objects.filter(organization=self.instance.organization, name=given.get("name")).exists():
            self.add_error("name", f"{self.instance.organization} has a key of this name already.")
        if self.principal.rank_over(self.instance.organization_id, self.instance.team_id) < ADMIN:
            given["owner"] = self.principal.user  # a member makes keys for themselves alone
        return given


def free_name(source: VirtualKey) -> str:
    """A name for a copy that its organization has not used yet."""
    taken = set(VirtualKey.objects.filter(organization_id=source.organization_id).values_list("name", flat=True))
    base = source.name[:80]
    return next(
        name
        for number in range(1, len(taken) + 2)
        if (name := f"{base} copy" if number == 1 else f"{base} copy {number}") not in taken
    )


def places(principal: Principal) -> list[tuple[str, str]]:
    """Where this person may make keys: organizations, and teams in them."""
    organizations = principal.organizations.filter(status=Organization.Status.ACTIVE).prefetch_related("teams")
    found = []
    for organization in organizations:
        if principal.rank_over(organization.pk) >= MEMBER:
            found.append((str(organization.pk), organization.name))
        found += [
            (f"{organization.pk}/{team.pk}", f"{organization.name} / {team.name}")
            for team in organization.teams.all()
            if principal.rank_over(organization.pk, team.pk) >= MEMBER
        ]
    return found


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


class StepForm(forms.Form):
    """One question before something is done to a key."""

    title: str
    button: str
    danger = False

    def __init__(self, key: VirtualKey, *args: Any, **kwargs: Any) -> None:
        self.key = key
        super().__init__(*args, **kwargs)

    def words(self) -> str:
        raise NotImplementedError  # every step says what it does

    def do(self, request: HttpRequest) -> str:
        """Do it. Returns a new secret, or ""."""
        raise NotImplementedError  # every step does something


GRACES = [("0", "Now"), ("1", "In 1 hour"), ("24", "In 24 hours"), ("168", "In 7 days")]


class RotateForm(StepForm):
    title, button = "Rotate the secret", "Make a new secret"
    grace = forms.ChoiceField(
        label="The old secret ends", choices=GRACES, initial="24", widget=UnfoldAdminRadioSelectWidget
    )

    def words(self) -> str:
        return (
            "The key gets a new secret, shown once on the next page. Spend, limits and history stay with the key. "
            "The old secret goes on working until the time you choose."
        )

    def do(self, request: HttpRequest) -> str:
        return issue.rotate(self.key, timedelta(hours=int(self.cleaned_data["grace"])), actor_of(request))


class ToggleForm(StepForm):
    def __init__(self, key: VirtualKey, *args: Any, **kwargs: Any) -> None:
        super().__init__(key, *args, **kwargs)
        self.button = "Disable" if key.state == "active" else "Enable"
        self.title = f"{self.button} the key"

    def words(self) -> str:
        if self.key.state == "active":
            return "Calls with this key are refused within a second, until somebody enables it again."
        return "Calls with this key are answered again."

    def do(self, request: HttpRequest) -> str:
        (issue.disable if self.key.state == "active" else issue.enable)(self.key, actor_of(request))
        return ""


class RevokeForm(StepForm):
    title, button, danger = "Revoke the key", "Revoke for good", True
    typed = forms.CharField(label="Type the name of the key", widget=UnfoldAdminTextInputWidget)

    def words(self) -> str:
        return "Every secret of this key stops working within a second, for good. Its history stays."

    def clean_typed(self) -> str:
        if self.cleaned_data["typed"].strip() != self.key.name:
            raise ValidationError(f"Type “{self.key.name}” to revoke it.")
        return str(self.cleaned_data["typed"])

    def do(self, request: HttpRequest) -> str:
        issue.revoke(self.key, actor_of(request))
        return ""


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
    actions_row = ("use", "requests", "rotate", "clone", "toggle", "revoke")
    actions_detail = ("use", "requests", "rotate", "clone", "toggle", "revoke")
    more = (
        "owner", "expires_at", "denied_models", "scopes", "networks", "tags", "strict_fields", "log_bodies", "outage_policy",
    )  # fmt: skip

    class Media:
        js = (Script("gatehouse/key-form.js", type="module"),)

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("secrets")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        kwargs["form"] = KeyForm if obj else NewKeyForm
        made = super().get_form(request, obj, change, **kwargs)
        return type("BoundKeyForm", (made,), {"principal": self.principal(request)})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            first: tuple[str, ...] = ("name", "belongs_to", "preset", "access", "allowed_models")
        else:
            first = ("name", "organization", "team", "access", "allowed_models")
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
            return (LimitInline,) if self._administers_somewhere(request) else ()
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
            return HttpResponseRedirect(reverse("admin:keys_virtualkey_change", args=[key.pk]))
        form = form_class(key, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            name = form.title
            if secret := form.do(request):
                return self._to_secret(request, key, secret)
            messages.success(request, f"{name}: done for {key.name}.")
            return HttpResponseRedirect(reverse("admin:keys_virtualkey_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": form.title,
            "subtitle": key.name,
            "opts": self.opts,
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


# The trail


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
