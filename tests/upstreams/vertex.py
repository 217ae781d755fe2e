"""Vertex AI: Google's and Anthropic's models under a project and a location, and the token endpoint before them."""

from __future__ import annotations

import base64
import json
import re
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.upstreams import strict
from tests.upstreams.anthropic import Messages, error_of, without_version
from tests.upstreams.asgi import Reply, Request, Stream
from tests.upstreams.gemini import MESSAGES, Gemini, pretty
from tests.upstreams.script import Fault, Refusal, Run, vector

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
AUDIENCE = "https://oauth2.googleapis.com/token"  # what google-auth writes, whatever the file's token_uri says
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def _changed(message: str, more: str = "", fewer: str = "") -> dict[str, str]:
    kept = {name: kind for name, kind in MESSAGES[message].items() if name not in fewer.split()}
    return kept | dict.fromkeys(more.split(), "any")


VERTEX_MESSAGES = MESSAGES | {
    "Generate": _changed("Generate", "labels modelArmorConfig", "store serviceTier"),
    "Part": _changed("Part", fewer="toolCall toolResponse partMetadata"),
    "Tool": _changed("Tool", "retrieval enterpriseWebSearch parallelAiSearch exaAiSearch", "fileSearch mcpServers"),
    "ToolConfig": _changed("ToolConfig", fewer="includeServerSideToolInvocations"),
    "FunctionCallingConfig": _changed("FunctionCallingConfig", "streamFunctionCallArguments"),
    "GenerationConfig": _changed(
        "GenerationConfig", "audioTimestamp routingConfig modelConfig", "enableEnhancedCivicAnswers _responseJsonSchema"
    ),
    "Count": {
        "model": "string", "contents": "*Content", "systemInstruction": "Content", "tools": "*Tool",
        "generationConfig": "GenerationConfig", "instances": "any",
    },
    "Embed": _changed("Embed", "autoTruncate", "model"),
}  # fmt: skip


class Vertex(Gemini):
    """project, locations: what it knows. `service_account` is a key file whose tokens it gives out and accepts."""

    messages = VERTEX_MESSAGES
    mark = b"vertex-signature-"
    project = "test-project"
    locations = ("us-central1", "europe-west1", "global")
    token_seconds = 3599
    paths = re.compile(
        r"/(?:v1|v1beta1)/(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/)?"
        r"publishers/(?P<publisher>google|anthropic)/models/(?P<model>[^/:]+):(?P<action>\w+)"
    )

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[str] = []

    async def respond(self, request: Request) -> Reply | Stream:
        if request.path == "/token":
            return self.grant(request)
        found = self.paths.fullmatch(request.path)
        if not found or request.method != "POST":
            raise Refusal("Not found.", status=404)
        self.allow(request, found)
        if not isinstance(request.json, dict):
            raise Refusal("Invalid JSON payload received. Expected an object.", why="invalid")
        model, action = found["model"], found["action"]
        if found["publisher"] == "anthropic":
            return await self.anthropic(model, action, request.json)
        match action:
            case "generateContent" | "streamGenerateContent":
                body = self.read("Generate", request.json)
                self._roles(body["contents"])
                run = Run(self.asked(model, body), self.billed)
                if action == "generateContent":
                    return await self.unary(run, body)
                return self.stream(run, body, sse=request.query.get("alt") == "sse")
            case "countTokens":
                return self.count(model, request.json)
            case "embedContent":
                asked = self.read("Embed", request.json)
                counted = {"promptTokenCount": len(str(asked["content"]).split())}
                return Reply(
                    body=pretty({"embedding": {"values": self.embedded(model, asked)}, "usageMetadata": counted})
                )
            case "predict":
                return self.predict(request.json)
        raise Refusal(f"Publisher Model `{model}` does not support {action}.", status=404)

    def allow(self, request: Request, found: re.Match[str]) -> None:
        if found["project"] is None:  # express mode: a key and no project
            return self.authorize(request)
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise Refusal("Request had invalid authentication credentials. Expected OAuth 2 access token.", status=401)
        if found["project"] != self.project:
            raise Refusal(f"Permission denied on resource project {found['project']}.", status=403)
        if found["location"] not in self.locations:
            raise Refusal(f"Publisher Model was not found in {found['location']}.", status=404)
        return None

    def refuse(self, refusal: Refusal) -> Reply:
        refusal.retry_after = None  # a 429 here does not say when to come back
        return super().refuse(refusal)

    def _roles(self, contents: list[dict[str, Any]]) -> None:
        for content in contents:
            if not content.get("role"):
                raise Refusal("Please use a valid role: user, model.")
            for part in content.get("parts", []):
                if "fileData" in part and not part["fileData"].get("mimeType"):
                    raise Refusal("Unable to submit request because it has an empty mimeType parameter for fileData.")

    async def anthropic(self, model: str, action: str, body: dict[str, Any]) -> Reply | Stream:
        """Claude refuses in Anthropic's words, whatever stands around it."""
        try:
            if model == "count-tokens" and action == "rawPredict":
                counted = {name: value for name, value in body.items() if name not in ("model", "anthropic_version")}
                messages = Messages(str(body.get("model")), counted, self, counting=True)
                return Reply(body={"input_tokens": messages.ask.prompt_tokens})
            messages = Messages(model, without_version(body, r"vertex-2023-10-16|2026-10-21"), self)
            strict.one_of(action, "action", ("streamRawPredict",) if body.get("stream") else ("rawPredict",))
            return await messages.create()
        except Refusal as refusal:
            return Reply(*error_of(refusal))
        except Fault as fault:
            if fault.flavour not in ("", "context", "quota"):
                raise
            return Reply(
                *error_of(
                    Refusal(fault.message, status=fault.status, code=fault.flavour, retry_after=fault.retry_after)
                )
            )

    def predict(self, body: dict[str, Any]) -> Reply:
        strict.fields(body, "", "parameters", "instances")
        size = int(
            strict.fields(body.get("parameters", {}), "parameters", "outputDimensionality autoTruncate").get(
                "outputDimensionality", 8
            )
        )
        predictions = []
        for place, one in enumerate(strict.items(body["instances"], "instances")):
            strict.fields(one, f"instances[{place}]", "task_type title", "content")
            counted = {"token_count": len(one["content"].split()), "truncated": False}
            predictions.append({"embeddings": {"values": vector(one["content"], size), "statistics": counted}})
        return Reply(body=pretty({"predictions": predictions}))

    # ── tokens ──

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def service_account(self) -> dict[str, str]:
        """A service account's key file. It belongs to this upstream alone, and only once it has an address."""
        private = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "key-1",
            "private_key": private.decode(),
            "client_email": f"gateway@{self.project}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def grant(self, request: Request) -> Reply:
        """A signed JWT for an access token, as RFC 7523 has it."""
        form = dict(parse_qsl(request.body.decode()))
        try:
            claims = self._claims(form.get("assertion", ""))
        except (ValueError, InvalidSignature):
            return Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        lifetime = claims.get("exp", 0) - claims.get("iat", 0)
        expected = {
            "iss": (self.service_account["client_email"],),
            "aud": (AUDIENCE, f"{self.url}/token"),
            "scope": (SCOPE,),
        }
        wrong = [name for name, values in expected.items() if claims.get(name) not in values]
        if form.get("grant_type") != GRANT or wrong or not 0 < lifetime <= 3600:
            return Reply(400, {"error": "invalid_grant", "error_description": f"Invalid JWT: {', '.join(wrong)}"})
        self.tokens.append(f"ya29.upstream-{len(self.tokens) + 1}")
        return Reply(body={"access_token": self.tokens[-1], "expires_in": self.token_seconds, "token_type": "Bearer"})

    def _claims(self, assertion: str) -> dict[str, Any]:
        signed, _, signature = assertion.rpartition(".")
        header, claims = (json.loads(_unpadded(part)) for part in signed.split("."))
        if header.get("alg") != "RS256":
            raise ValueError("alg")
        self._key.public_key().verify(_unpadded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return dict(claims)


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
