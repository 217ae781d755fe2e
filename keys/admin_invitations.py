"""Invitations in the admin: who is asked in, the link to copy, and its revocation. How they work: keys/invitations.py."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.decorators import display
from unfold.widgets import UnfoldAdminEmailInputWidget

from keys import invitations, mail
from keys.dates import ago
from keys.invitations import InvitationRefused
from keys.models import Invitation, User
from keys.principal import RANK, Principal
from keys.scoped_admin import ScopedAdmin, ScopedRelatedFilter, action, actor_of, where_roles_are_given


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only in the stubs
    """Sends the invitation while it is checked, so that whatever speaks against it stands in the form."""

    request: HttpRequest
    email = forms.EmailField(label="Mail address", widget=UnfoldAdminEmailInputWidget)

    class Meta:
        model = Invitation
        fields = ("email", "organization", "team", "role")

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if self.errors:
            return given
        try:
            self.instance = invitations.invite(
                email=given["email"],
                organization=given["organization"],
                team=given.get("team"),
                role=given["role"],
                by=cast(User, self.request.user),
                actor=actor_of(self.request),
            )
        except InvitationRefused as error:
            raise forms.ValidationError(str(error)) from None
        return given

    def _post_clean(self) -> None:
        """The row is made already."""


class InvitationStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("pending", "Pending"), ("accepted", "Accepted"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "pending":
                return queryset.filter(pk__in=invitations.pending().values("pk"))
            case "accepted":
                return queryset.exclude(accepted_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(Invitation)
class InvitationAdmin(ScopedAdmin):
    form = InvitationForm
    audit_name = "invitation"
    list_display = ("email", "place", "role_label", "state_label", "sent", "ends")
    list_filter = (InvitationStateFilter, ("organization", ScopedRelatedFilter))
    list_select_related = ("organization", "team", "created_by")
    search_fields = ("email", "organization__name", "team__name")
    actions_row = ("link", "revoke")
    actions_detail = ("link", "revoke")
    fields: ClassVar[Any] = ("email", "organization", "team", "role")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """An invitation is revoked, not changed."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.principal(request).is_platform_admin

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        made = super().get_form(request, obj, change, **kwargs)
        roles = offered(self.principal(request))
        if "role" in made.base_fields:
            cast(forms.ChoiceField, made.base_fields["role"]).choices = roles
        return type("BoundInvitationForm", (made,), {"request": request})

    def choices_for(self, db_field: Any, request: HttpRequest, chosen: QuerySet[Any]) -> QuerySet[Any]:
        return where_roles_are_given(self.principal(request), db_field.name, chosen)

    # Sending one

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """The mail goes when the row is there for good."""
        shown = {"show_save_and_add_another": False, "show_save_and_continue": False, **(extra_context or {})}
        response = super().add_view(request, form_url, shown)
        if made := request.__dict__.pop("_invited", None):
            self._post(request, made)
        return response

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Made by the form, with its line in the trail."""
        request._invited = obj  # type: ignore[attr-defined]  # for add_view, in this same request

    def response_add(self, request: HttpRequest, obj: Invitation, post_url_continue: str | None = None) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:keys_invitation_link", args=[obj.pk]))

    def _post(self, request: HttpRequest, invitation: Invitation) -> None:
        if not mail.configured():
            return
        text = (
            f"{request.user} invites you to {invitation.organization.name} on Gatehouse, "
            f"as {invitation.get_role_display().lower()}.\n\n"
            f"{link(invitation, settings.PUBLIC_URL)}\n\n"
            f"The link works once, until {invitation.expires_at:%Y-%m-%d %H:%M} UTC."
        )
        if trouble := mail.send([invitation.email], f"Invitation to {invitation.organization.name}", text):
            messages.warning(request, f"{trouble} Copy the link below and send it yourself.")
        else:
            messages.success(request, f"The invitation was mailed to {invitation.email}.")

    # What can be done with one

    @action(description="Link", icon="link", permissions=["view"])
    def link(self, request: HttpRequest, object_id: str) -> HttpResponse:
        invitation = self._manageable(request, object_id)
        base = settings.GATEHOUSE.public_url or request.build_absolute_uri("/")
        context = {
            **self.admin_site.each_context(request),
            "title": "Invitation",
            "subtitle": invitation.email,
            "opts": self.opts,
            "invitation": invitation,
            "link": link(invitation, base) if invitation.state == "Pending" else "",
        }
        return TemplateResponse(request, "gatehouse/invitation.html", context)

    @action(description="Revoke", icon="block", permissions=["view"])
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        invitation = self._manageable(request, object_id)
        if request.method == "POST":
            try:
                invitations.revoke(invitation, actor_of(request))
            except InvitationRefused as error:
                messages.error(request, str(error))
            else:
                messages.success(request, f"The invitation of {invitation.email} is revoked; its link is dead.")
            return HttpResponseRedirect(reverse("admin:keys_invitation_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Revoke the invitation",
            "subtitle": invitation.email,
            "opts": self.opts,
            "invitation": invitation,
        }
        return TemplateResponse(request, "gatehouse/invitation_revoke.html", context)

    def _manageable(self, request: HttpRequest, object_id: str) -> Invitation:
        """For whoever could have sent it; an admin does not hold the link that makes an owner."""
        found = cast(Invitation, self.get_object(request, object_id))
        if not self.principal(request).may_grant(found.role, found.organization_id, found.team_id):
            self.refuse("change")
        return found

    # The list

    @display(description="Into", ordering="organization__name", header=True)
    def place(self, row: Invitation) -> list[str]:
        return [row.organization.name, row.team.name if row.team else ""]

    @display(description="Role", label={"Owner": "primary", "Admin": "info"}, ordering="role")
    def role_label(self, row: Invitation) -> str:
        return row.get_role_display()

    @display(
        description="State", label={"Pending": "info", "Accepted": "success", "Expired": "warning", "Revoked": "danger"}
    )
    def state_label(self, row: Invitation) -> str:
        return row.state

    @display(description="Sent", ordering="created_at", header=True)
    def sent(self, row: Invitation) -> list[str]:
        return [ago(row.created_at), str(row.created_by or "")]

    @display(description="Link ends", ordering="expires_at")
    def ends(self, row: Invitation) -> str:
        return ago(row.expires_at)


def offered(principal: Principal) -> list[tuple[str, str]]:
    """The roles this person could grant somewhere."""
    highest = max([*principal.ranks.values(), *principal.team_ranks.values()], default=0)
    roles = Invitation._meta.get_field("role").choices or []
    return [
        (str(role), str(label)) for role, label in roles if principal.is_platform_admin or RANK[str(role)] <= highest
    ]


def link(invitation: Invitation, base: str) -> str:
    return base.rstrip("/") + reverse("admin:join", args=[invitations.token(invitation)])
