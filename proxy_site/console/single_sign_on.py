"""Signing in at the organization's own provider: the way there, the way back, and who may then use a password.

The way there is a link and not a form: `form-action 'self'` would keep browsers from following it. What a sign-in was begun
with (state, nonce, verifier) stands in the session and is taken out by whatever comes back first.
"""

from __future__ import annotations

import hmac
import logging
import time
from dataclasses import asdict
from typing import Any, Final

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import login
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from keys import role_map, single_sign_on
from keys.models import User
from keys.scoped_admin import actor_of
from keys.single_sign_on import Named, NotAdmitted
from proxy_site.console import oidc
from proxy_site.console.oidc import Asked, ProviderFailed
from proxy_site.console.throttle import within

logger = logging.getLogger(__name__)

BACKEND: Final = "django.contrib.auth.backends.ModelBackend"
BEGUN: Final = "single_sign_on"  # in the session: what the sign-in on its way was begun with
SIGNED_IN: Final = "signed_in_by_single_sign_on"  # in the session
PATIENCE: Final = 600  # seconds a sign-in may be on its way
FROM_ONE: Final = 600  # requests an hour from one network address: each makes us ask the provider, or write a session


def offered(request: HttpRequest, following: str = "") -> dict[str, Any] | None:
    """What the sign-in page shows of it; None when it is off. following: where to go afterwards."""
    if not oidc.configured():
        return None
    query = f"?{urlencode({'next': following})}" if following else ""
    return {"name": settings.GATEHOUSE.oidc_name, "link": reverse("admin:single_sign_on") + query}


def check(person: User) -> None:
    """Raise ValidationError if this person may come in by single sign-on alone."""
    if oidc.configured() and single_sign_on.bound(person):
        raise ValidationError(f"Your role comes from your groups: sign in with {settings.GATEHOUSE.oidc_name}.")


# ---- there


@require_GET
@never_cache
def begin(request: HttpRequest) -> HttpResponse:
    """On to the provider."""
    if closed := _closed(request):
        return closed
    following = place(str(request.GET.get("next") or ""))
    if admin.site.has_permission(request):
        return HttpResponseRedirect(following)
    try:
        found = oidc.provider()
    except ProviderFailed as error:
        return _failed(request, "The provider cannot be reached, or does not answer as it should.", error, 502)
    asked = oidc.new()
    request.session[BEGUN] = {"asked": asdict(asked), "next": following, "at": int(time.time())}
    return HttpResponseRedirect(oidc.way_there(found, asked, _callback()))


def _callback() -> str:
    return oidc.redirect_uri(reverse("admin:single_sign_on_back"))


def place(following: str) -> str:
    """Where to go after signing in: a path of this site, and the overview for anything else."""
    good = following.startswith("/") and url_has_allowed_host_and_scheme(following, allowed_hosts=None)
    return following if good else reverse("admin:index")


def _closed(request: HttpRequest) -> HttpResponse | None:
    """404 when it is off; a page for whoever knocks too often."""
    if not oidc.configured():
        raise Http404
    if within(f"single-sign-on:{request.META.get('REMOTE_ADDR', '')}", FROM_ONE):
        return None
    return _failed(request, "There were too many sign-ins from here. Try again in an hour.", "too many", 429)


# ---- and back


@require_GET
@never_cache
def back(request: HttpRequest) -> HttpResponse:
    """The provider sends the browser here, with a code or with what went wrong."""
    if closed := _closed(request):
        return closed
    begun = request.session.pop(BEGUN, None)
    request.session.save()  # also when this ends with a 5xx: it works once
    try:
        asked = _begun(request, begun)
        found = oidc.provider()
        code = _code(request, found)
        claims = oidc.claims_of(found, asked, code, _callback())
    except _Told as error:
        return _failed(request, str(error), error.__cause__ or error, 400)
    except ProviderFailed as error:
        return _failed(request, "What the provider said could not be verified.", error, 502)
    try:
        person = _admitted(request, found.issuer, claims)
    except NotAdmitted as error:
        return _failed(request, str(error), error, 403)
    except IntegrityError as error:  # the same person came twice at the same time
        return _failed(request, "There was another sign-in at the same moment.", error, 409)
    login(request, person, backend=BACKEND)  # with a new session
    request.session[SIGNED_IN] = True
    return HttpResponseRedirect(begun["next"])


class _Told(Exception):
    """The sign-in ends here. The message is a sentence for the person."""


def _begun(request: HttpRequest, begun: Any) -> Asked:
    """What it was begun with. Raises _Told unless this browser began it, a short while ago, with this very state."""
    state = str(request.GET.get("state") or "")
    if not begun or not hmac.compare_digest(begun["asked"]["state"].encode(), state.encode()):
        raise _Told("This sign-in was not begun in this browser, or it has ended already.")
    if time.time() - begun["at"] > PATIENCE:
        raise _Told(f"This sign-in took more than {PATIENCE // 60} minutes.")
    return Asked(**begun["asked"])


def _code(request: HttpRequest, found: oidc.Provider) -> str:
    """The authorization code. Nothing else that stands in the address is shown: anybody may have written it."""
    issuer = request.GET.get("iss")
    if issuer != found.issuer and (issuer is not None or found.names_itself):
        raise ProviderFailed("The answer came from another provider (RFC 9207).")
    if error := request.GET.get("error"):
        raise _Told(
            "You were not signed in at the provider."
            if error == "access_denied"
            else "The provider refused the sign-in."
        ) from ProviderFailed(f"The provider said {error[:60]!r}.")
    if not (code := request.GET.get("code")):
        raise _Told("The provider sent no code.")
    return code


def _admitted(request: HttpRequest, issuer: str, claims: dict[str, Any]) -> User:
    names = {name: claims.get(claim) for name, claim in (("first_name", "given_name"), ("last_name", "family_name"))}
    named = Named(
        issuer=issuer,
        subject=claims["sub"],
        email=oidc.verified_email(claims),
        **{name: value for name, value in names.items() if isinstance(value, str)},
    )
    mapping = role_map.parse(settings.GATEHOUSE.oidc_roles)
    roles = role_map.roles_of(oidc.groups_of(claims), mapping)
    return single_sign_on.admit(named, roles, actor_of(request).address)


def _failed(request: HttpRequest, sentence: str, error: object, status: int) -> HttpResponse:
    logger.warning("A single sign-on ended: %s", error)
    shown = {
        **admin.site.each_context(request),
        "title": "Sign in",
        "sentence": sentence,
        "single_sign_on": offered(request),
    }
    return TemplateResponse(request, "gatehouse/single_sign_on_failed.html", shown, status=status)


# ---- out


def way_out(request: HttpRequest) -> str:
    """Where somebody who signed in there signs out there, too; "" otherwise. Asked before the session ends."""
    if not oidc.configured() or not request.session.get(SIGNED_IN):
        return ""
    try:
        return oidc.way_out(oidc.provider(), oidc.redirect_uri(reverse("admin:login")))
    except ProviderFailed as error:
        logger.warning("Nobody can be sent to sign out at the provider: %s", error)
        return ""
