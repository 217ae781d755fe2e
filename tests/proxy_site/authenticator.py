"""A passkey's device in software: it makes keys and signs what a page asks, with parts that can be wrong."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2.cose import ES256
from fido2.utils import sha256, websafe_decode, websafe_encode
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

ORIGIN = "https://gate.example.org"
PRESENT, VERIFIED = AuthenticatorData.FLAG.UP, AuthenticatorData.FLAG.UV


@dataclass
class Device:
    """One passkey. count: None for a device that does not count, as those that copy keys between them."""

    private: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    user_handle: bytes = b""
    count: int | None = 0
    origin: str = ORIGIN
    rp_id: str = "gate.example.org"
    flags: AuthenticatorData.FLAG = PRESENT | VERIFIED

    def make(self, options: dict[str, Any]) -> str:
        """A new credential, as the page's module writes it."""
        self.user_handle = websafe_decode(options["user"]["id"])
        public = ES256.from_cryptography_key(self.private.public_key())
        credential = AttestedCredentialData.create(Aaguid.NONE, self.credential_id, public)
        flags = self.flags | AuthenticatorData.FLAG.AT
        data = AuthenticatorData.create(sha256(self.rp_id.encode()), flags, self._counted(), credential)
        client = self._client("webauthn.create", options)
        attestation = AttestationObject.create("none", data, {})
        return self._written(clientDataJSON=client, attestationObject=attestation)

    def sign(self, options: dict[str, Any], **changed: Any) -> str:
        """A signature, as the page's module writes it. changed: parts of the response that are others."""
        data = AuthenticatorData.create(sha256(self.rp_id.encode()), self.flags, self._counted())
        client = self._client(changed.pop("type", "webauthn.get"), options)
        signature = self.private.sign(data + client.hash, ec.ECDSA(SHA256()))
        parts = {"clientDataJSON": client, "authenticatorData": data, "signature": signature}
        return self._written(**{**parts, "userHandle": self.user_handle, **changed})

    def _counted(self) -> int:
        if self.count is None:
            return 0
        self.count += 1
        return self.count

    def _client(self, kind: str, options: dict[str, Any]) -> CollectedClientData:
        return CollectedClientData.create(kind, options["challenge"], self.origin)

    def _written(self, **parts: bytes) -> str:
        name = websafe_encode(self.credential_id)
        response = {part: websafe_encode(value) for part, value in parts.items() if value}
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})
