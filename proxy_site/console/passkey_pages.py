"""Passkeys on the pages: signing in with one, adding and removing one's own (beside the authenticator app)."""

from __future__ import annotations

from typing import Final, cast

from django.contrib import messages
from django.contrib.auth import login
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from keys import audit
from keys.models import User
from keys.scoped_admin import actor_of
from proxy_site.console import passkeys, second_factor, single_sign_on
from proxy_site.console.passkeys import Refused
from proxy_site.console.throttle import within

FROM_ONE: Final = 300  # requests an hour from one network address


@require_POST
@never_cache
def challenge(request: HttpRequest) -> JsonResponse:
    """What a passkey is asked to sign, for signing in or for showing once more who one is."""
    if not passkeys.available():
        raise Http404
    if not _few(request):
        return JsonResponse({"trouble": "There were too many tries from here. Try again in an hour."}, status=429)
    return JsonResponse({"options": passkeys.ask(request)})


@require_POST
@never_cache
def sign_in(request: HttpRequest) -> HttpResponse:
    """POST with assertion and next: signed in, or back at the sign-in page with a sentence."""
    following = single_sign_on.place(str(request.POST.get("next") or ""))
    try:
        person = _signed_by(request)
    except (Refused, ValidationError) as error:
        messages.error(request, error.message if isinstance(error, ValidationError) else str(error))
        return HttpResponseRedirect(f"{reverse('admin:login')}?{urlencode({'next': following})}")
    login(request, person, backend=single_sign_on.BACKEND)  # with a new session
    return HttpResponseRedirect(following)


def _signed_by(request: HttpRequest) -> User:
    """Whose passkey signed. Raises Refused, or ValidationError when they may not come in this way."""
    if not passkeys.available() or not _few(request):
        raise Refused("There were too many tries from here. Try again in an hour.")
    person = passkeys.answered(request, str(request.POST.get("assertion") or "")).user
    if not person.is_active:
        raise Refused("This account is blocked.")
    single_sign_on.check(person)
    return person


def _few(request: HttpRequest) -> bool:
    return within(f"passkey:{request.META.get('REMOTE_ADDR', '')}", FROM_ONE)


# ---- one's own


@require_POST
@sensitive_post_parameters()
def page(request: HttpRequest) -> HttpResponse:
    """POST with action begin (proof; answers JSON) or add (name, credential), or with remove (proof)."""
    if not passkeys.available():
        raise Http404
    person = cast(User, request.user)
    back = HttpResponseRedirect(reverse("admin:second_factor"))
    match request.POST.get("action"):
        case "begin":
            if trouble := second_factor.doubt(request, person):
                return JsonResponse({"trouble": trouble})
            return JsonResponse({"options": passkeys.begin(request, person)})
        case "add":
            try:
                made = passkeys.finish(
                    request, person, str(request.POST.get("name") or ""), str(request.POST.get("credential") or "")
                )
            except Refused as error:
                messages.error(request, str(error))
                return back
            audit.record(actor_of(request), "user.passkey_added", person, {"name": [None, made.name]})
            messages.success(request, f"{made.name} signs you in from now on.")
        case _:
            _remove(request, person, str(request.POST.get("remove") or ""))
    return back


def _remove(request: HttpRequest, person: User, pk: str) -> None:
    row = second_factor.passkey_of(person, pk)
    if row is None:
        raise Http404
    if trouble := second_factor.doubt(request, person):
        messages.error(request, trouble)
        return
    row.delete()
    audit.record(actor_of(request), "user.passkey_removed", person, {"name": [row.name, None]})
    messages.success(request, f"{row.name} is gone. Remove it on your device as well.")
