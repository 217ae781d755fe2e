"""Passkeys (WebAuthn Level 2): what a browser is asked to sign, and whether what it signed is believed.

They are discoverable and verify the person (a PIN, a finger, a face), so that one signs in without name, password and code.
Signatures and registrations are checked by fido2; the challenge stands in the session, and is taken out by the first answer.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from fido2.server import Fido2Server
from fido2.webauthn import (
    AttestationConveyancePreference,
    AttestedCredentialData,
    AuthenticationResponse,
    PublicKeyCredentialDescriptor,
    PublicKeyCredentialRpEntity,
    PublicKeyCredentialType,
    PublicKeyCredentialUserEntity,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from keys import audit
from keys.models import Passkey, User
from lib import json

logger = logging.getLogger(__name__)
Found = TypeVar("Found")

MOST: Final = 10  # passkeys of one person
PATIENCE: Final = 300  # seconds a challenge is good for
LONGEST: Final = 16 * 1024  # characters of an answer
TO_SIGN_IN: Final = "passkey_asked"  # in the session: the challenge of a signature
TO_ADD: Final = "passkey_begun"  # in the session: the challenge of a new passkey
VERIFIED: Final = UserVerificationRequirement.REQUIRED


class Refused(Exception):
    """This answer is not believed. The message is a sentence for the person."""


def available() -> bool:
    """Whether browsers would: GATEHOUSE_PUBLIC_URL names a host, and is https (or this machine)."""
    parts = urlsplit(settings.PUBLIC_URL)
    host = parts.hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(host) and (parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"))
    return False


def _server() -> Fido2Server:
    parts = urlsplit(settings.PUBLIC_URL)
    origin = f"{parts.scheme}://{parts.netloc}"
    return Fido2Server(
        PublicKeyCredentialRpEntity(id=parts.hostname or "", name="Gatehouse"),
        attestation=AttestationConveyancePreference.NONE,
        verify_origin=lambda given: given == origin,
    )


# ---- signing


def ask(request: HttpRequest) -> dict[str, Any]:
    """What the browser hands to navigator.credentials.get, with binary fields in base64url."""
    options, state = _server().authenticate_begin(user_verification=VERIFIED)
    _remember(request, TO_SIGN_IN, state)
    return dict(options.public_key)


def answered(request: HttpRequest, text: str) -> Passkey:
    """The passkey that signed what `ask` asked. Raises Refused. Counts the use."""
    state = _taken_out(request, TO_SIGN_IN)
    response = _read(lambda: _response(text), text)
    name = base64url(response.raw_id)
    row = Passkey.objects.select_related("user").filter(credential_id=name).first()
    if row is None:
        raise Refused("This passkey is not known here, or was removed.")
    if response.response.user_handle not in (None, b"", row.user.pk.bytes):
        raise Refused("This passkey is somebody else's.")
    known = AttestedCredentialData(unbase64url(row.credential))
    _read(lambda: _server().authenticate_complete(state, [known], response), text)
    _count(row, response.response.authenticator_data.counter)
    return row


def _response(text: str) -> AuthenticationResponse:
    given = json.loads(text)
    if not isinstance(given, dict):
        raise ValueError("not an object")
    return AuthenticationResponse.from_dict(given)


def _count(row: Passkey, count: int) -> None:
    """Note the use. A count that does not grow means that two devices sign with one key (WebAuthn, section 6.1.1)."""
    grows = Q(sign_count__lt=count) if count else Q(sign_count=0)
    if not Passkey.objects.filter(grows, pk=row.pk).update(sign_count=count, last_used_at=timezone.now()):
        logger.error("The count of passkey %s of %s went backwards: it may have been copied.", row.pk, row.user_id)
        audit.record(audit.SYSTEM, "user.passkey_refused", row.user, {"count": [row.sign_count, count]})
        raise Refused("This passkey may have been copied. Remove it, and add it again.")


# ---- a new one


def begin(request: HttpRequest, person: User) -> dict[str, Any]:
    """What the browser hands to navigator.credentials.create, with binary fields in base64url."""
    options, state = _server().register_begin(
        PublicKeyCredentialUserEntity(id=person.pk.bytes, name=person.email, display_name=str(person)),
        credentials=[
            PublicKeyCredentialDescriptor(type=PublicKeyCredentialType.PUBLIC_KEY, id=unbase64url(row.credential_id))
            for row in person.passkeys.all()
        ],
        resident_key_requirement=ResidentKeyRequirement.REQUIRED,
        user_verification=VERIFIED,
    )
    _remember(request, TO_ADD, {**state, "person": str(person.pk)})
    return dict(options.public_key)


def finish(request: HttpRequest, person: User, name: str, text: str) -> Passkey:
    """Keep what the browser made. Raises Refused."""
    state = _taken_out(request, TO_ADD)
    if state["person"] != str(person.pk):
        raise Refused("This was begun by somebody else. Try again.")
    made = _read(lambda: _server().register_complete(state, json.loads(text)), text)
    credential = made.credential_data
    if credential is None or Passkey.objects.filter(credential_id=base64url(credential.credential_id)).exists():
        raise Refused("This passkey is known already.")
    if person.passkeys.count() >= MOST:
        raise Refused(f"You have {MOST} passkeys. Remove one first.")
    return Passkey.objects.create(
        user=person,
        name=" ".join(name.split())[:60] or "Passkey",
        credential_id=base64url(credential.credential_id),
        credential=base64url(credential),
        sign_count=made.counter,
    )


# ---- challenges and answers


def _remember(request: HttpRequest, place: str, state: dict[str, Any]) -> None:
    request.session[place] = {**state, "user_verification": str(VERIFIED.value), "at": int(time.time())}


def _taken_out(request: HttpRequest, place: str) -> dict[str, Any]:
    """The challenge, for the only time."""
    state: dict[str, Any] | None = request.session.pop(place, None)
    request.session.save()  # whatever this request ends with
    if state is None or time.time() - state["at"] > PATIENCE:
        raise Refused("That took too long. Try again.")
    return state


def _read(work: Callable[[], Found], text: str) -> Found:
    """What `work` finds in an answer. Raises Refused: a stranger's bytes may trip a parser in any way."""
    if len(text) > LONGEST:
        raise Refused("This is no passkey's answer.")
    try:
        return work()
    except Exception as error:
        logger.warning("A passkey's answer is refused: %s %s", type(error).__name__, str(error)[:200])
        raise Refused("The passkey's answer could not be verified. Try again.") from error


def base64url(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).rstrip(b"=").decode()


def unbase64url(given: str) -> bytes:
    return base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
