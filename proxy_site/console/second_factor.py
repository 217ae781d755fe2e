"""A second factor for whoever wants one: codes of an authenticator app (TOTP, RFC 6238), and ten recovery codes.

Passkeys (passkeys.py) stand beside it: with one, the password alone signs nobody in either. The code stands in the sign-in form beside the password, so that there is no half signed-in state. A wrong one counts
as a failed sign-in. Every code works once.
"""

from __future__ import annotations

import base64
import hmac
import logging
import secrets
import time
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.signals import user_login_failed
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from unfold.forms import AuthenticationForm
from unfold.widgets import UnfoldAdminTextInputWidget

from keys import audit
from keys.models import Passkey, SecondFactor, User
from keys.scoped_admin import actor_of
from proxy_site.console import passkeys, single_sign_on
from proxy_site.console.throttle import within
from routing import credentials

logger = logging.getLogger(__name__)

STEP: Final = 30  # seconds
SLACK: Final = 1  # steps that clocks may be apart
DIGITS: Final = 6
CODES: Final = 10
TRIES_AN_HOUR: Final = 60
PURPOSE: Final = "second factor"


# ---- codes


def code_at(secret: bytes, step: int) -> str:
    """The code of one step: RFC 4226 over the number of the step."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def secret_of(factor: SecondFactor) -> bytes:
    return base64.b32decode(credentials.open_text(PURPOSE, str(factor.pk), factor.sealed_secret))


def takes(factor: SecondFactor, given: str) -> bool:
    """Whether this is a code of now, or a recovery code that is left; it is used up by that."""
    given = "".join(given.split()).replace("-", "").upper()
    if len(given) == DIGITS and given.isascii() and given.isdigit():
        return _takes_code(factor, given)
    return bool(given) and _takes_recovery(factor, given)


def _takes_code(factor: SecondFactor, given: str) -> bool:
    try:
        secret, now = secret_of(factor), int(time.time()) // STEP
    except credentials.CredentialError as error:  # recovery codes still do
        logger.error("The second factor of %s cannot be opened: %s", factor.pk, error)
        return False
    for step in range(now - SLACK, now + SLACK + 1):
        if hmac.compare_digest(code_at(secret, step), given):
            fresh = SecondFactor.objects.filter(pk=factor.pk, last_step__lt=step)
            return bool(fresh.update(last_step=step))
    return False


def _takes_recovery(factor: SecondFactor, given: str) -> bool:
    with transaction.atomic():
        row = SecondFactor.objects.select_for_update().get(pk=factor.pk)
        left = [each for each in row.recovery_codes if not hmac.compare_digest(each, _kept(given))]
        if len(left) == len(row.recovery_codes):
            return False
        row.recovery_codes = left
        row.save(update_fields=["recovery_codes"])
    return True


def _kept(code: str) -> str:
    return hmac.digest(settings.GATEHOUSE_PEPPER.encode(), b"recovery code" + code.encode(), "sha256").hex()


def new_recovery_codes(factor: SecondFactor) -> list[str]:
    """Ten of them, to be shown once; those before are void."""
    codes = [base64.b32encode(secrets.token_bytes(10)).decode() for _ in range(CODES)]
    SecondFactor.objects.filter(pk=factor.pk).update(recovery_codes=[_kept(code) for code in codes])
    return [f"{code[:4]}-{code[4:8]}-{code[8:12]}-{code[12:]}" for code in codes]


# ---- signing in


def code_field() -> forms.CharField:
    return forms.CharField(
        label="Authenticator code",
        required=False,
        max_length=40,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "one-time-code", "spellcheck": "false"}),
        help_text="Only if you have set one up. A recovery code does as well.",
    )


def check(request: HttpRequest, person: User, given: str) -> None:
    """Raise ValidationError unless this person may sign in by password, with `given` for a second factor if they have one.

    Counts failures.
    """
    single_sign_on.check(person)
    factor = SecondFactor.objects.filter(user=person).exclude(confirmed_at=None).first()
    has_passkey = person.passkeys.exists()
    if factor is None and not has_passkey:
        return
    if factor is not None and within(f"second-factor:{person.pk}", TRIES_AN_HOUR) and takes(factor, given):
        return
    user_login_failed.send(sender=__name__, credentials={"username": person.email}, request=request)
    if factor is None:
        raise ValidationError("Your password alone does not sign you in: use your passkey.")
    if given:
        raise ValidationError("This code is not right, or it was used already. Wait for the next one.")
    raise ValidationError(f"Give the code of your authenticator app as well{', or use a passkey' * has_passkey}.")


class LoginForm(AuthenticationForm):
    code = code_field()

    def confirm_login_allowed(self, user: Any) -> None:
        super().confirm_login_allowed(user)
        check(cast(HttpRequest, self.request), user, str(self.cleaned_data.get("code") or ""))


# ---- one's own


@sensitive_post_parameters()
def page(request: HttpRequest) -> HttpResponse:
    """POST with action start (password), confirm (code), renew (code: new recovery codes) or remove (code)."""
    person = cast(User, request.user)
    factor = SecondFactor.objects.filter(user=person).first()
    on = factor is not None and factor.confirmed_at is not None
    given = str(request.POST.get("code") or "")
    shown: dict[str, Any] = {}
    match request.POST.get("action") if request.method == "POST" else None:
        case "start" if not on:
            if trouble := doubt(request, person):
                shown["trouble"] = trouble
            else:
                shown |= start(person)
        case "confirm" if factor is not None and not on:
            if not right(person, factor, given):
                shown |= {"trouble": "This code is not right. Is the clock of your phone?", **to_enter(factor)}
            else:
                SecondFactor.objects.filter(pk=factor.pk).update(confirmed_at=timezone.now())
                tell(request, person, "user.second_factor_added")
                shown["codes"] = new_recovery_codes(factor)
        case "renew" | "remove" as action if factor is not None and on:
            if not right(person, factor, given):
                shown["trouble"] = "This code is not right, or it was used already."
            elif action == "renew":
                tell(request, person, "user.recovery_codes_renewed")
                shown["codes"] = new_recovery_codes(factor)
            else:
                factor.delete()
                tell(request, person, "user.second_factor_removed")
                messages.success(request, f"The app is gone. {alone(person)}")
                return HttpResponseRedirect(reverse("admin:second_factor"))
    factor = SecondFactor.objects.filter(user=person).first()
    context = {
        **admin.site.each_context(request),
        "title": "Second factor",
        "factor": factor,
        "on": factor is not None and factor.confirmed_at is not None,
        "passkeys": list(person.passkeys.all()),
        "removing": passkey_of(person, str(request.GET.get("remove") or "")),
        "passkeys_available": passkeys.available(),
        **shown,
    }
    return TemplateResponse(request, "gatehouse/second_factor.html", context)


def right(person: User, factor: SecondFactor, given: str) -> bool:
    return within(f"second-factor:{person.pk}", TRIES_AN_HOUR) and takes(factor, given)


def doubt(request: HttpRequest, person: User) -> str:
    """Why what was sent does not show that it is this person who changes their second factor; "" when it does.

    A session alone never does. What they have decides: a code or a passkey, and the password only of those without.
    """
    if not within(f"second-factor:{person.pk}", TRIES_AN_HOUR):
        return "There were too many tries. Wait an hour."
    factor = SecondFactor.objects.filter(user=person).exclude(confirmed_at=None).first()
    given = str(request.POST.get("code") or "")
    has_passkey = person.passkeys.exists()
    if factor is not None and (given or not has_passkey):
        return "" if takes(factor, given) else "This code is not right, or it was used already."
    if has_passkey:
        try:
            used = passkeys.answered(request, str(request.POST.get("assertion") or ""))
        except passkeys.Refused as error:
            return str(error)
        return "" if used.user_id == person.pk else "This passkey is somebody else's."
    return "" if person.check_password(str(request.POST.get("password") or "")) else "This is not your password."


def passkey_of(person: User, pk: str) -> Passkey | None:
    """One of this person's own."""
    return next((each for each in person.passkeys.all() if str(each.pk) == pk), None)


def alone(person: User) -> str:
    return "Your passkey signs you in." if person.passkeys.exists() else "Your password alone signs you in."


def start(person: User) -> dict[str, str]:
    """A new secret, not asked for until its first code was right."""
    secret = base64.b32encode(secrets.token_bytes(20)).decode()
    sealed = credentials.seal_text(PURPOSE, str(person.pk), secret)
    fresh: dict[str, Any] = {"sealed_secret": sealed, "confirmed_at": None, "last_step": 0, "recovery_codes": []}
    factor, _made = SecondFactor.objects.update_or_create(user=person, defaults=fresh)
    return to_enter(factor)


def to_enter(factor: SecondFactor) -> dict[str, str]:
    """What is typed, or opened, in the app."""
    secret = base64.b32encode(secret_of(factor)).decode()
    asked = urlencode({"secret": secret, "issuer": "Gatehouse"})
    spaced = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return {"secret": spaced, "otpauth": f"otpauth://totp/Gatehouse:{quote(factor.user.email)}?{asked}"}


def tell(request: HttpRequest, person: User, action: str) -> None:
    audit.record(actor_of(request), action, person, {})
