"""OpenID Connect: what is said to a single sign-on provider, and what of its answers is believed.

Authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9207). ID tokens are verified by joserfc with the
provider's published keys. Every address comes from the provider's discovery document and passes routing/addresses.py.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

from django.conf import settings
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from keys.single_sign_on import SUBJECT_LENGTH
from lib import json
from proxy_site.console.throttle import within
from routing import tokens

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip  # with a public key alone: neither none, nor a shared secret
LEEWAY: Final = 60  # seconds that clocks may be apart
REMEMBERED: Final = 3600.0  # seconds a discovery document and keys are believed
NEW_KEYS_AN_HOUR: Final = 30  # times an unknown key makes us look again


class ProviderFailed(Exception):
    """The provider, or somebody in its name, said what cannot be believed. The text is for the log, and holds no secret."""


@dataclass(frozen=True)
class Provider:
    """What the discovery document says (OpenID Connect Discovery 1.0, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    basic: bool = True  # whether it takes the client's secret in the Authorization header
    names_itself: bool = False  # in every answer to the browser (RFC 9207)


@dataclass(frozen=True)
class Asked:
    """What one sign-in was begun with. Goes into the session, and out of it once."""

    state: str
    nonce: str
    verifier: str


def new() -> Asked:
    return Asked(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(64))


def configured() -> bool:
    return bool(settings.GATEHOUSE.oidc_issuer)


def redirect_uri(path: str) -> str:
    return settings.PUBLIC_URL.rstrip("/") + path


# ---- the discovery document


_providers: dict[str, tuple[float, Provider]] = {}  # by issuer, with the time until which it is believed
_keys: dict[str, tuple[float, KeySet]] = {}  # by jwks_uri, as above


def forget() -> None:
    _providers.clear()
    _keys.clear()


def provider() -> Provider:
    """Raises ProviderFailed."""
    issuer = settings.GATEHOUSE.oidc_issuer
    until, known = _providers.get(issuer, (0.0, None))
    if known is None or until < time.monotonic():
        known = _read(issuer, _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration"))
        _providers[issuer] = time.monotonic() + REMEMBERED, known
    return known


def _read(issuer: str, said: Mapping[str, Any]) -> Provider:
    if said.get("issuer") != issuer:
        raise ProviderFailed(
            f"GATEHOUSE_OIDC_ISSUER is {issuer}, but the provider calls itself {said.get('issuer')!r}."
        )
    needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    addresses = {name: _address(name, said.get(name)) for name in needed}
    if missing := [name for name, address in addresses.items() if not address]:
        raise ProviderFailed(f"The discovery document has no {', '.join(missing)}.")
    methods = said.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Provider(
        issuer=issuer,
        **addresses,
        userinfo_endpoint=_address("userinfo_endpoint", said.get("userinfo_endpoint")),
        end_session_endpoint=_address("end_session_endpoint", said.get("end_session_endpoint")),
        basic="client_secret_basic" in methods,
        names_itself=said.get("authorization_response_iss_parameter_supported") is True,
    )


def _address(name: str, given: Any) -> str:
    """An endpoint's address; "" when there is none. Over TLS, unless the provider may stand in a private network."""
    if given is None:
        return ""
    schemes = ("https", "http") if settings.GATEHOUSE.oidc_allow_private else ("https",)
    if not isinstance(given, str) or urlsplit(given).scheme not in schemes:
        raise ProviderFailed(f"The discovery document's {name} is no address that begins with {schemes[0]}://.")
    return given


# ---- to the provider, by way of the browser


def way_there(found: Provider, asked: Asked, callback: str) -> str:
    """Where the browser goes to sign in."""
    challenge = hashlib.sha256(asked.verifier.encode()).digest()
    return _with_query(
        found.authorization_endpoint,
        response_type="code",
        client_id=settings.GATEHOUSE.oidc_client_id,
        redirect_uri=callback,
        scope=settings.GATEHOUSE.oidc_scopes,
        state=asked.state,
        nonce=asked.nonce,
        code_challenge=base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
        code_challenge_method="S256",
    )


def way_out(found: Provider, back: str) -> str:
    """Where the browser signs out at the provider; "" when it has no such place (RP-Initiated Logout 1.0)."""
    if not found.end_session_endpoint:
        return ""
    return _with_query(
        found.end_session_endpoint, client_id=settings.GATEHOUSE.oidc_client_id, post_logout_redirect_uri=back
    )


def _with_query(address: str, **query: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}"


# ---- and back


def claims_of(found: Provider, asked: Asked, code: str, callback: str) -> dict[str, Any]:
    """Who signed in, for the code that the browser brought. Raises ProviderFailed."""
    answer = _exchange(found, asked, code, callback)
    claims = _verified(found, asked, answer.get("id_token"))
    groups = settings.GATEHOUSE.oidc_groups_claim
    if found.userinfo_endpoint and not ("email" in claims and _claim(claims, groups) is not None):
        more = _get(found.userinfo_endpoint, {"Authorization": f"Bearer {answer.get('access_token', '')}"})
        if more.get("sub") != claims["sub"]:  # OpenID Connect Core 1.0, section 5.3.2: then it is not to be used
            raise ProviderFailed("The userinfo endpoint speaks of somebody else.")
        if "email" in claims:  # a mail address and its verification are believed together
            more = {name: value for name, value in more.items() if not name.startswith("email")}
        claims = {**more, **claims}
    return claims


def groups_of(claims: Mapping[str, Any]) -> list[str]:
    """The groups that the claims name. None at all is the same as no such claim."""
    match _claim(claims, settings.GATEHOUSE.oidc_groups_claim):
        case str(one):
            return [one]
        case list(many):
            return [each for each in many if isinstance(each, str)]
    return []


def verified_email(claims: Mapping[str, Any]) -> str:
    """The mail address, if the provider says it is theirs; "" otherwise, and for letters that fold into ASCII ones."""
    email, verified = claims.get("email"), claims.get("email_verified")
    trusted = verified is True or (verified is None and settings.GATEHOUSE.oidc_trust_email)
    good = isinstance(email, str) and email.isascii() and "@" in email and len(email) <= 254
    return str(email).strip().lower() if trusted and good else ""


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that name; else, for realm_access.roles, what stands inside."""
    if name in claims:
        return claims[name]
    outer, dot, inner = name.partition(".")
    nested = claims.get(outer)
    return _claim(nested, inner) if dot and isinstance(nested, dict) else None


def _exchange(found: Provider, asked: Asked, code: str, callback: str) -> dict[str, Any]:
    """The tokens for the code (RFC 6749, section 4.1.3)."""
    client_id, secret = settings.GATEHOUSE.oidc_client_id, settings.GATEHOUSE.oidc_client_secret.get_secret_value()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": callback,
        "code_verifier": asked.verifier,
    }
    headers = {"Accept": "application/json"}
    if secret and found.basic:
        pair = base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    else:
        form |= {"client_id": client_id} | ({"client_secret": secret} if secret else {})
    return _object(found.token_endpoint, "POST", headers, form)


def _verified(found: Provider, asked: Asked, id_token: Any) -> dict[str, Any]:
    """The claims of an ID token, if it is what OpenID Connect Core 1.0, section 3.1.3.7 asks. Raises ProviderFailed."""
    client_id = settings.GATEHOUSE.oidc_client_id
    if not isinstance(id_token, str):
        raise ProviderFailed("The token endpoint gave no ID token.")
    rules = jwt.JWTClaimsRegistry(
        leeway=LEEWAY,
        iss={"essential": True, "value": found.issuer},
        sub={"essential": True},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": asked.nonce},
    )
    try:
        claims = _opened(found, id_token)
        rules.validate(claims)
    except (JoseError, ValueError) as error:
        raise ProviderFailed(f"The ID token is refused: {type(error).__name__} {error}") from error
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if claims.get("azp", client_id if len(audiences) == 1 else None) != client_id:
        raise ProviderFailed("The ID token was made for somebody else (azp).")
    if len(claims["sub"]) > SUBJECT_LENGTH:
        raise ProviderFailed("The ID token's subject is too long.")
    return dict(claims)


def _opened(found: Provider, id_token: str) -> dict[str, Any]:
    """The claims under a good signature. A key that is not known yet makes us look for new ones, once."""
    try:
        return jwt.decode(id_token, _key_set(found), algorithms=ALGORITHMS).claims
    except InvalidKeyIdError:
        if not within("single-sign-on-keys", NEW_KEYS_AN_HOUR):
            raise
        _keys.pop(found.jwks_uri, None)
        return jwt.decode(id_token, _key_set(found), algorithms=ALGORITHMS).claims


def _key_set(found: Provider) -> KeySet:
    until, known = _keys.get(found.jwks_uri, (0.0, None))
    if known is None or until < time.monotonic():
        published: Any = _get(found.jwks_uri)
        if not isinstance(published.get("keys"), list):
            raise ProviderFailed("The provider publishes no keys.")
        known = KeySet.import_key_set(published)
        _keys[found.jwks_uri] = time.monotonic() + REMEMBERED, known
    return known


# ---- asking it


def _get(address: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    return _object(address, "GET", {"Accept": "application/json", **(headers or {})})


def _object(
    address: str, method: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object that an endpoint answers. Raises ProviderFailed."""
    allowed = settings.GATEHOUSE.oidc_allow_private
    place = f"{urlsplit(address).hostname}{urlsplit(address).path}"
    try:
        _address("endpoint", address)
        status, _headers, body = tokens.exchange(
            address, method=method, headers=headers, data=form, allow_private=allowed
        )
    except tokens.TokenRefused as error:
        raise ProviderFailed(f"{place}: {error}") from error
    try:
        said = json.loads(body)
    except json.JSONDecodeError:
        said = None
    if status != 200 or not isinstance(said, dict):
        code = said.get("error") if isinstance(said, dict) else None
        told = code if isinstance(code, str) and code.isascii() and code.isprintable() and len(code) < 60 else ""
        raise ProviderFailed(f"{place} answered {status} {told}".rstrip() + ".")
    return said
