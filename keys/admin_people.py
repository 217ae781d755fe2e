"""People and their memberships in the admin."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm
from unfold.widgets import (
    UnfoldAdminEmailInputWidget,
    UnfoldAdminPasswordWidget,
)

from keys import single_sign_on
from keys.dates import ago
from keys.models import Membership, Organization, SecondFactor, Team, User
from keys.principal import Principal
from keys.scoped_admin import ScopedAdmin, ScopedInline, ScopedRelatedFilter, action, actor_of, where_roles_are_given


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
    list_display = ("user", "organization", "team", "role_label", "given", "since")
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
        return where_roles_are_given(self.principal(request), db_field.name, chosen)

    @display(description="Role", label={"Owner": "primary", "Admin": "info"}, ordering="role")
    def role_label(self, row: Membership) -> str:
        return row.get_role_display()

    @display(description="Given by", ordering="by_group")
    def given(self, row: Membership) -> str:
        return "a group" if row.by_group else "hand"

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


PEOPLE_WORDS = {  # field: (label, help)
    "is_active": ("May sign in", "Off: this person is kept out, and their history stays."),
    "is_superuser": ("Platform admin", "Sees and changes everything, in every organization."),
}


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
    actions_detail: Any = ("remove_second_factor", "unlink")
    fieldsets = (
        (None, {"fields": ("email", "password", "first_name", "last_name")}),
        ("Sign-in", {"fields": ("is_active", "is_superuser")}),
    )
    add_fieldsets: Any = ((None, {"fields": ("email", "password", "first_name", "last_name", "is_superuser")}),)

    @action(description="Remove second factor", icon="phonelink_erase", permissions=["change"])
    def remove_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """For somebody who lost the app and the recovery codes, or the passkeys."""
        person = cast(User, self.visible(request, object_id, "change"))
        back = HttpResponseRedirect(reverse("admin:keys_user_change", args=[person.pk]))
        factor = SecondFactor.objects.filter(user=person)
        if not factor.exists() and not person.passkeys.exists():
            messages.info(request, f"{person} has no second factor.")
            return back
        if request.method != "POST":
            return self._sure(request, person, "gatehouse/second_factor_remove.html", "Second factor")
        factor.delete()
        person.passkeys.all().delete()
        self.record(request, "second_factor_removed", person, {})
        messages.success(request, f"{person} signs in with the password alone, and can set up another.")
        return back

    @action(description="Unlink single sign-on", icon="link_off", permissions=["change"])
    def unlink(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """For somebody whom the provider knows anew, or no more. What groups gave goes."""
        person = cast(User, self.visible(request, object_id, "change"))
        back = HttpResponseRedirect(reverse("admin:keys_user_change", args=[person.pk]))
        if not person.identities.exists():
            messages.info(request, f"{person} is not linked to a single sign-on provider.")
            return back
        if request.method != "POST":
            return self._sure(request, person, "gatehouse/unlink.html", "Single sign-on")
        single_sign_on.unlink(person, actor_of(request))
        messages.success(request, f"{person} is linked to no provider, and has lost what groups gave.")
        return back

    def _sure(self, request: HttpRequest, person: User, template: str, title: str) -> TemplateResponse:
        """The page that asks before it is done."""
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "original": person,
            "person": person,
        }
        return TemplateResponse(request, template, context)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """In this product's words, where Django speaks of users and superusers."""
        found = super().formfield_for_dbfield(db_field, request, **kwargs)
        if found is not None and db_field.name in PEOPLE_WORDS:
            found.label, found.help_text = PEOPLE_WORDS[db_field.name]
        return found

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
