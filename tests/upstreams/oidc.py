"""An OpenID Connect provider, as strict as the real ones: codes work once, PKCE and the client's secret are checked.

It signs in whoever `person` describes, without asking. `spoil` changes the next ID tokens, for those who must not be believed.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.script import Refusal

CLIENT = "gatehouse"
SECRET = "s3cret/with+signs"


@cache
def signing_key(number: int) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": f"key-{number}", "use": "sig", "alg": "RS256"})


@dataclass
class Grant:
    """What a code stands for."""

    query: dict[str, str]
    claims: dict[str, Any]


@dataclass
class Spoil:
    """What is wrong with an ID token: claims that are others (None: missing), how it is signed."""

    claims: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None


class OpenIDProvider(Upstream):
    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.forget()
        self.person: dict[str, Any] = {"sub": "u-1", "email": "ada@example.org", "email_verified": True}
        self.person |= {"given_name": "Ada", "family_name": "Lovelace", "groups": ["staff"]}
        self.userinfo: dict[str, Any] | None = None  # claims that are told there, and not in the ID token
        self.spoil = Spoil()
        self.keys = [1]  # the numbers of the published keys; the last one signs
        self.auth_methods = ["client_secret_basic"]
        self.more: dict[str, Any] = {}  # of the discovery document
        self.says_issuer = True  # in the answer to the browser (RFC 9207)
        self.refuses = ""  # an error code instead of a code
        self.grants: dict[str, Grant] = {}
        self.tokens: dict[str, Grant] = {}

    async def respond(self, request: Request) -> Reply | Stream:
        routes: dict[str, Callable[[Request], Reply]] = {
            "/.well-known/openid-configuration": self._discovery,
            "/authorize": self._authorize,
            "/token": self._token,
            "/jwks": self._jwks,
            "/userinfo": self._userinfo,
        }
        if request.path not in routes:
            raise Refusal("no such page", status=404, code="not_found")
        return routes[request.path](request)

    def refuse(self, refusal: Refusal) -> Reply:
        """RFC 6749, section 5.2."""
        return Reply(refusal.status, {"error": refusal.code, "error_description": str(refusal)})

    def _discovery(self, request: Request) -> Reply:
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
        if self.userinfo is not None:
            places["userinfo_endpoint"] = "userinfo"
        told = {name: f"{self.url}/{path}" for name, path in places.items()}
        told |= {"issuer": self.url, "token_endpoint_auth_methods_supported": self.auth_methods}
        return Reply(body={**told, "authorization_response_iss_parameter_supported": True, **self.more})

    def _authorize(self, request: Request) -> Reply:
        query = request.query
        if query.get("client_id") != CLIENT or query.get("response_type") != "code":
            raise Refusal("unknown client or response type", status=400, code="invalid_request")
        if "openid" not in query.get("scope", "").split() or query.get("code_challenge_method") != "S256":
            raise Refusal("scope openid and PKCE are needed", status=400, code="invalid_request")
        if min(len(query.get(name, "")) for name in ("state", "nonce", "code_challenge")) < 32:
            raise Refusal("state, nonce and challenge are too short", status=400, code="invalid_request")
        answer = {"state": query["state"], **({"iss": self.url} if self.says_issuer else {})}
        if self.refuses:
            answer |= {"error": self.refuses, "error_description": "Call 555-1234 now"}
        else:
            answer["code"] = secrets.token_urlsafe(16)
            self.grants[answer["code"]] = Grant(query, dict(self.person))
        return Reply(302, b"", {"location": f"{query['redirect_uri']}?{urlencode(answer)}"})

    def _token(self, request: Request) -> Reply:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        self._check_client(request, form)
        grant = self.grants.pop(form.get("code", ""), None)
        challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        good = grant is not None and grant.query["redirect_uri"] == form.get("redirect_uri")
        if grant is None or not good or _base64url(challenge) != grant.query["code_challenge"]:
            raise Refusal("code, address or verifier are wrong", status=400, code="invalid_grant")
        access = secrets.token_urlsafe(16)
        self.tokens[access] = grant
        return Reply(body={"access_token": access, "token_type": "Bearer", "id_token": self._id_token(grant)})

    def _check_client(self, request: Request, form: dict[str, str]) -> None:
        given = form.get("client_id", ""), form.get("client_secret", "")
        if "client_secret_basic" in self.auth_methods:
            pair = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
            given = unquote_plus(pair.partition(":")[0]), unquote_plus(pair.partition(":")[2])
        if given != (CLIENT, "" if "none" in self.auth_methods else SECRET):
            raise Refusal("unknown client", status=401, code="invalid_client")

    def _id_token(self, grant: Grant) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": grant.query["nonce"]}
        claims = {**claims, **grant.claims, **self.spoil.claims}
        claims = {name: value for name, value in claims.items() if value is not None}
        if self.spoil.sign:
            return self.spoil.sign(claims)
        key = signing_key(self.keys[-1])
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    def _jwks(self, request: Request) -> Reply:
        return Reply(body={"keys": [signing_key(number).as_dict(private=False) for number in self.keys]})

    def _userinfo(self, request: Request) -> Reply:
        grant = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if grant is None:
            raise Refusal("no such token", status=401, code="invalid_token")
        return Reply(body={"sub": grant.claims["sub"], **(self.userinfo or {})})


def _base64url(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).rstrip(b"=").decode()
