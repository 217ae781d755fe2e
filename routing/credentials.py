"""Providers' credentials at rest: sealed with AES-256-GCM, and bound to the place they belong to.

    v1|key id|nonce|ciphertext        the last two in URL-safe base64

The additional data names purpose, organization, row and field: an envelope copied to another row, tenant or
purpose does not open. Keys come from GATEHOUSE_ENCRYPTION_KEYS (base64 of 32 bytes each, comma between; the first
one seals, all of them open); each purpose has its own subkey (HKDF). To change keys: put a new one first, restart
every process, run `manage.py rekey`, then remove the old one.

A value `ref:NAME` is kept as that reference, and read from the environment whenever the catalog is loaded.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.utils import timezone

from lib import json

if TYPE_CHECKING:
    from routing.models import Connection

PURPOSE = "connection"
REFERENCE = "ref:"
REFERENCE_PREFIX = "GATEHOUSE_CREDENTIAL_"


class CredentialError(Exception):
    """A credential cannot be sealed or opened. The text is a sentence for an operator and holds no secret."""


def _refuse(name: str) -> str | None:
    raise CredentialError("This process does not read credentials from the environment.")


# Set by proxy_site/apps.py: the environment is read there and nowhere else.
read_reference: Callable[[str], str | None] = _refuse


def seal(connection: Connection, values: Mapping[str, str]) -> None:
    """Give `connection` (not saved here) this credential; no values take it away. Raises CredentialError."""
    given = {name: str(value).strip() for name, value in values.items() if str(value).strip()}
    for value in given.values():
        if value.startswith(REFERENCE):
            check_reference(value)
    if given:
        connection.sealed_credential = seal_text(
            PURPOSE, str(connection.pk), json.canonical(given).decode(), organization=_organization(connection)
        )
        connection.credential_hint = hint(given)
        connection.credential_set_at = timezone.now()
    else:
        clear(connection)


def held(connection: Connection) -> dict[str, str]:
    """The credential in the clear, references as they stand. Empty when there is none. Raises CredentialError."""
    if not connection.sealed_credential:
        return {}
    text = open_text(PURPOSE, str(connection.pk), connection.sealed_credential, organization=_organization(connection))
    return {str(name): str(value) for name, value in json.loads(text).items()}


def open_(connection: Connection) -> dict[str, str]:
    """The same with references read. Raises CredentialError."""
    return {name: dereference(value) for name, value in held(connection).items()}


def clear(connection: Connection) -> None:
    """Take the credential away (not saved here)."""
    connection.sealed_credential = ""
    connection.credential_hint = ""
    connection.credential_set_at = None


def readdress(connection: Connection, base_url: str) -> bool:
    """Change the address (not saved here). Another origin loses the credential: True when it did.

    Otherwise whoever may edit an address could send the credential to a server of his own.
    """
    moved = origin(connection.base_url) != origin(base_url)
    connection.base_url = base_url
    if moved and connection.sealed_credential:
        clear(connection)
        return True
    return False


def guard_save(sender: Any, instance: Connection, **signal: Any) -> None:
    """Before any save of a Connection: one that moves (address, kind, tenant) without a new credential loses it."""
    if not instance.sealed_credential or instance._state.adding:
        return
    before = sender.objects.filter(pk=instance.pk).first()
    if before is None or before.sealed_credential != instance.sealed_credential:
        return
    moved = (
        origin(before.base_url) != origin(instance.base_url)
        or before.kind != instance.kind
        or before.organization_id != instance.organization_id
    )
    if moved:
        clear(instance)


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: who gets the credential. The path may change without asking for it again."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ("", url, None)
    return (parts.scheme, parts.hostname or "", port or {"https": 443, "http": 80}.get(parts.scheme))


# References


def check_reference(value: str) -> str:
    """The variable that `ref:NAME` names. Raises CredentialError for a name that may not be referred to."""
    name = value.removeprefix(REFERENCE)
    if not name.startswith(REFERENCE_PREFIX) or not name.replace("_", "").isalnum():
        raise CredentialError(f"A reference must name a variable that starts with {REFERENCE_PREFIX}.")
    return name


def dereference(value: str) -> str:
    if not value.startswith(REFERENCE):
        return value
    name = check_reference(value)
    found = read_reference(name)
    if not found:
        raise CredentialError(f"The variable {name} is not set, but the credential refers to it.")
    return found


def hint(values: Mapping[str, str]) -> str:
    """What an admin may see of a credential: names of references, the last four characters of long secrets."""
    said = []
    for name, value in values.items():
        if value.startswith(REFERENCE):
            said.append(value)
        elif value.lower() in ("true", "1", "yes"):
            said.append(name)
        elif len(value) >= 16 and "\n" not in value and not value.startswith("{"):
            said.append(f"{name} …{value[-4:]}")
        else:
            said.append(f"{name} ••••")
    return ", ".join(said)[:60]


# The envelope


def seal_text(purpose: str, row_id: str, text: str, *, organization: str = "", field: str = "") -> str:
    """An envelope that opens only under the same purpose, row, organization and field. Raises CredentialError."""
    key_id = next(iter(_keyring()))
    nonce = os.urandom(12)
    sealed = _cipher(key_id, purpose).encrypt(nonce, text.encode(), _place(purpose, organization, row_id, field))
    return f"v1|{key_id}|{_encode(nonce)}|{_encode(sealed)}"


def open_text(purpose: str, row_id: str, sealed: str, *, organization: str = "", field: str = "") -> str:
    """What `seal_text` was given. Raises CredentialError."""
    try:
        version, key_id, nonce, ciphertext = sealed.split("|")
        raw_nonce, raw = base64.urlsafe_b64decode(nonce), base64.urlsafe_b64decode(ciphertext)
    except (ValueError, binascii.Error):
        raise CredentialError("This is not a sealed value.") from None
    if version != "v1":
        raise CredentialError(f"This value was sealed in a form that this version does not know ({version[:8]}).")
    if key_id not in _keyring():
        raise CredentialError(f"The key {key_id[:16]} is not among GATEHOUSE_ENCRYPTION_KEYS.")
    try:
        text = _cipher(key_id, purpose).decrypt(raw_nonce, raw, _place(purpose, organization, row_id, field))
    except (InvalidTag, ValueError):
        raise CredentialError("The value was damaged, or sealed for another place.") from None
    return text.decode()


def reseal(connection: Connection) -> str:
    """The connection's envelope, under the first key; references stay references. Raises CredentialError."""
    place = {"organization": _organization(connection)}
    text = open_text(PURPOSE, str(connection.pk), connection.sealed_credential, **place)
    return seal_text(PURPOSE, str(connection.pk), text, **place)


def sealed_by_first_key(sealed: str) -> bool:
    """Whether `manage.py rekey` has nothing to do here."""
    return not sealed or sealed.split("|")[1:2] == [next(iter(_keyring()))]


def _place(*parts: str) -> bytes:
    """Unambiguous: no part can pretend to be two."""
    return json.dumps(["gatehouse", *parts])


def _organization(connection: Connection) -> str:
    return str(connection.organization_id or "")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _keyring() -> dict[str, bytes]:
    return _read_keyring(settings.GATEHOUSE_ENCRYPTION_KEYS)


@functools.lru_cache(maxsize=4)
def _read_keyring(text: str) -> dict[str, bytes]:
    """Key id to key, in the order given. A key's id is derived from it, so that the order may change."""
    ring: dict[str, bytes] = {}
    for each in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            key = base64.b64decode(each.replace("-", "+").replace("_", "/") + "=" * (-len(each) % 4), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32:
            raise CredentialError("Each of GATEHOUSE_ENCRYPTION_KEYS must be 32 bytes in base64. Run `manage.py init`.")
        ring[hashlib.sha256(b"gatehouse key id" + key).hexdigest()[:8]] = key
    if not ring:
        raise CredentialError(
            "GATEHOUSE_ENCRYPTION_KEYS is not set, so credentials can be neither sealed nor opened. Run `manage.py init`."
        )
    return ring


@functools.lru_cache(maxsize=64)
def _subkey(key: bytes, purpose: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=f"gatehouse {purpose}".encode()).derive(key))


def _cipher(key_id: str, purpose: str) -> AESGCM:
    return _subkey(_keyring()[key_id], purpose)
