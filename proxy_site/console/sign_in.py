"""The doors before the admin: joining by invitation, a new password by mail, the page of somebody locked out.

And, inside, one's own sessions. Nothing here tells a stranger whether an address has an account.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import authenticate, login, password_validation
from django.contrib.auth import views as auth_views
from django.contrib.auth.forms import PasswordResetForm, SetPasswordForm
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import reverse, reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminEmailInputWidget, UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from keys import audit, invitations, mail
from keys.invitations import InvitationRefused
from keys.models import Invitation, User
from keys.scoped_admin import actor_of
from proxy_site.console import second_factor
from proxy_site.console.throttle import within

BACKEND = "django.contrib.auth.backends.ModelBackend"
RESETS_OF_ONE = 3  # mails an hour to one address
RESETS_FROM_ONE = 20  # requests an hour from one network address


def framed(request: HttpRequest, title: str, **more: Any) -> dict[str, Any]:
    """What a page outside the admin's frame needs."""
    return {**admin.site.each_context(request), "title": title, **more}


# ---- joining


class NewPersonForm(forms.Form):
    first_name = forms.CharField(
        max_length=150, widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "given-name"})
    )
    last_name = forms.CharField(
        max_length=150, required=False, widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "family-name"})
    )
    password = forms.CharField(
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="At least 10 characters.",
    )
    again = forms.CharField(
        label="Password again", strip=False, widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})
    )

    def __init__(self, email: str, *args: Any, **kwargs: Any) -> None:
        self.email = email
        super().__init__(*args, **kwargs)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        password = given.get("password")
        if password is None:
            return given
        if password != given.get("again"):
            self.add_error("again", "The two passwords differ.")
        person = User(email=self.email, first_name=given.get("first_name", ""), last_name=given.get("last_name", ""))
        try:
            password_validation.validate_password(password, person)
        except ValidationError as error:
            self.add_error("password", error)
        return given

    def person(self) -> User:
        given = self.cleaned_data
        return User.objects.create_user(
            self.email, given["password"], first_name=given["first_name"], last_name=given["last_name"]
        )


class KnownPersonForm(forms.Form):
    """Somebody with an account shows that it is theirs; a wrong password counts as a failed sign-in."""

    password = forms.CharField(
        strip=False, widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password"})
    )

    code = second_factor.code_field()

    def __init__(self, person: User, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.known, self.request = person, request
        super().__init__(*args, **kwargs)

    def clean_password(self) -> str:
        given = str(self.cleaned_data["password"])
        if authenticate(self.request, username=self.known.email, password=given) is None:
            raise ValidationError("This is not the password of your account.")
        return given

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if "password" in given:
            second_factor.check(self.request, self.known, str(given.get("code") or ""))
        return given

    def person(self) -> User:
        return self.known


class SignedInForm(forms.Form):
    """Nothing to fill in: they are here."""

    def __init__(self, person: User, *args: Any, **kwargs: Any) -> None:
        self.known = person
        super().__init__(*args, **kwargs)

    def person(self) -> User:
        return self.known


@sensitive_post_parameters()
@never_cache
def join(request: HttpRequest, token: str) -> HttpResponse:
    """The page an invitation leads to."""
    invitation = invitations.found(token)
    if invitation is None:
        response: HttpResponse = TemplateResponse(
            request, "gatehouse/join.html", framed(request, "Invitation"), status=404
        )
    else:
        response = _join(request, invitation)
    response["Referrer-Policy"] = "no-referrer"
    return response


def _join(request: HttpRequest, invitation: Invitation) -> HttpResponse:
    known = User.objects.filter(email__iexact=invitation.email).first()
    here = request.user.is_authenticated
    stranger = here and (known is None or request.user.pk != known.pk)
    form = _join_form(request, invitation, known)
    trouble = ""
    if request.method == "POST" and not stranger and form is not None and form.is_valid():
        try:
            with transaction.atomic():
                person = form.person()
                invitations.accept(invitation, person, actor_of(request).address)
        except InvitationRefused as error:
            trouble = str(error)
        except IntegrityError:  # the form was sent twice
            trouble = "This invitation was used just now. Sign in."
        else:
            if not here:
                person.refresh_from_db()  # a member may enter
                login(request, person, backend=BACKEND)  # with a new session
            messages.success(request, f"Welcome to {invitation.organization.name}.")
            return HttpResponseRedirect(reverse("admin:index"))
    shown = framed(
        request, "Invitation", invitation=invitation, form=form, known=known, stranger=stranger, trouble=trouble
    )
    return TemplateResponse(request, "gatehouse/join.html", shown)


def _join_form(
    request: HttpRequest, invitation: Invitation, known: User | None
) -> NewPersonForm | KnownPersonForm | SignedInForm | None:
    """None where passwords sign nobody in, and they must have signed in before."""
    given = request.POST if request.method == "POST" else None
    if known is not None and request.user.is_authenticated:
        return SignedInForm(known, given)
    if not settings.GATEHOUSE.password_login:
        return None
    if known is None:
        return NewPersonForm(invitation.email, given)
    return KnownPersonForm(known, request, given)


# ---- a new password by mail


class ResetForm(PasswordResetForm):
    """Mails whoever has an account, also one without a password yet. The wait is the same for everybody."""

    email = forms.EmailField(
        label="Mail address", max_length=254, widget=UnfoldAdminEmailInputWidget(attrs={"autocomplete": "email"})
    )

    def get_users(self, email: str) -> Any:
        return User.objects.filter(email__iexact=email, is_active=True)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """The link leads to where Gatehouse says it is, not to where the request says."""
        place = urlsplit(settings.PUBLIC_URL)
        kwargs.update(domain_override=place.netloc, use_https=place.scheme == "https", request=None)
        if within(f"reset-of:{self.cleaned_data['email'].lower()}", RESETS_OF_ONE):
            mail.later(functools.partial(super().save, *args, **kwargs))


class Framed:
    """A view of Django's with the frame of our pages."""

    frame_title = ""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if not settings.GATEHOUSE.password_login:
            raise Http404
        return super().dispatch(request, *args, **kwargs)  # type: ignore[misc]  # the view's

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().get_context_data(**kwargs)  # type: ignore[misc]  # the view's
        return {**found, **framed(cast(Any, self).request, self.frame_title), "mail": mail.configured()}


class Reset(Framed, auth_views.PasswordResetView):
    frame_title = "New password"
    template_name = "gatehouse/reset.html"
    email_template_name = "gatehouse/reset_mail.txt"
    subject_template_name = "gatehouse/reset_subject.txt"
    form_class = ResetForm
    success_url = reverse_lazy("admin:password_reset_done")

    def form_valid(self, form: Any) -> HttpResponse:
        if mail.configured() and within(f"reset-from:{self.request.META.get('REMOTE_ADDR', '')}", RESETS_FROM_ONE):
            return super().form_valid(form)
        return HttpResponseRedirect(str(self.success_url))


class NewPasswordForm(SetPasswordForm):  # type: ignore[type-arg]  # generic only in the stubs
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("new_password1", "new_password2"):
            self.fields[name].widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})


class ResetConfirm(Framed, auth_views.PasswordResetConfirmView):
    frame_title = "New password"
    template_name = "gatehouse/reset_confirm.html"
    form_class = NewPasswordForm
    success_url = reverse_lazy("admin:login")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        record_password(self.request, cast(User, self.user))
        messages.success(self.request, "The new password is set. Other sessions have ended; sign in.")
        return response


def record_password(request: HttpRequest, person: User) -> None:
    """A line in the trail: somebody's password is another now."""
    actor = (
        actor_of(request)
        if request.user.is_authenticated
        else audit.Actor(
            id=str(person.pk), name=person.email, source="admin", address=str(request.META.get("REMOTE_ADDR", ""))
        )
    )
    audit.record(actor, "user.password_changed", person, {})


DOORS: list[tuple[str, Callable[..., HttpResponseBase], str]] = [
    ("join/<str:token>/", join, "join"),
    ("password-reset/", Reset.as_view(), "admin_password_reset"),  # the name the login page looks for
    (
        "password-reset/sent/",
        type("Sent", (Framed, auth_views.PasswordResetDoneView), {"template_name": "gatehouse/reset_sent.html", "frame_title": "New password"}).as_view(),  # type: ignore[attr-defined]  # a view
        "password_reset_done",
    ),
    ("password-reset/<uidb64>/<token>/", ResetConfirm.as_view(), "password_reset_confirm"),
]  # fmt: skip


# ---- locked out, and signed out


def locked(request: HttpRequest, original: HttpResponse | None = None, credentials: Any = None) -> HttpResponse:
    """django-axes found too many failures from here for this account (AXES_LOCKOUT_CALLABLE)."""
    minutes = int(settings.AXES_COOLOFF_TIME * 60)
    return render(request, "gatehouse/locked.html", framed(request, "Locked", minutes=minutes), status=429)


def sessions(request: HttpRequest) -> HttpResponse:
    """Sign out everywhere: every session of this person ends, this one as well."""
    if request.method == "POST":
        person = cast(User, request.user)
        with transaction.atomic():
            User.objects.filter(pk=person.pk).update(sessions_version=F("sessions_version") + 1)
            audit.record(actor_of(request), "user.signed_out_everywhere", person, {})
        request.session.flush()
        return HttpResponseRedirect(reverse("admin:login"))
    return TemplateResponse(request, "gatehouse/sessions.html", framed(request, "Sign out everywhere"))
