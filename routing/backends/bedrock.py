"""AWS Bedrock: Anthropic's language (InvokeModel) or AWS's own (Converse), signed bytes, AWS framing."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from lib import json
from routing.backends.base import (
    Action,
    Backend,
    BadOption,
    CredentialField,
    Endpoint,
    Option,
    UpstreamRequest,
    segment,
)  # fmt: skip
from routing.errors import UpstreamError

ANTHROPIC_VERSION = "bedrock-2023-05-31"
OPERATIONS: dict[tuple[str, Action], str] = {
    ("anthropic_messages", "generate"): "invoke",
    ("anthropic_messages", "stream"): "invoke-with-response-stream",
    ("bedrock_converse", "generate"): "converse",
    ("bedrock_converse", "stream"): "converse-stream",
}
STREAM = "application/vnd.amazon.eventstream"

_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+\Z")
_PROFILE = re.compile(r"(us|us-gov|eu|apac|global|jp|au|ca|sa|me|af)\.(?=[a-z0-9]+\.)")


class Bedrock(Backend):
    label = "AWS Bedrock"
    language = "bedrock_converse"
    own_address = True
    base_url_help = "Empty: the region's own host. Set it for a private endpoint."
    framing = "aws_event_stream"
    options = (
        Option("region", "Region", "For example us-east-1.", required=True),
        Option(
            "api", "API", "auto: InvokeModel for Anthropic's models, Converse for the rest.",
            default="auto", choices=("auto", "invoke", "converse"),
        ),
        Option("anthropic_version", "Anthropic version", "For InvokeModel.", default=ANTHROPIC_VERSION),
        Option("anthropic_beta", "Beta features", "For InvokeModel; comma between."),
    )  # fmt: skip
    credential_fields = (
        CredentialField("aws_access_key_id", "Access key id", group="access_key"),
        CredentialField("aws_secret_access_key", "Secret access key", group="access_key"),
        CredentialField("aws_session_token", "Session token", group="access_key", required=False),
        CredentialField("bearer_token", "Bedrock API key", group="bearer_token"),
        CredentialField(
            "chain", "Credential chain", group="chain", switch=True, help="What this machine has: profile, role, ..."
        ),
    )
    actions: ClassVar[frozenset[Action]] = frozenset({"generate", "stream", "count"})
    request_id_header = "x-amzn-requestid"
    price_provider = "aws"

    def warm_up(self) -> None:
        import botocore.auth  # noqa: PLC0415 - 30 MB of package that only this backend needs
        import botocore.awsrequest  # noqa: PLC0415 - as above
        import botocore.credentials  # noqa: PLC0415 - as above
        import botocore.eventstream  # noqa: F401, PLC0415 - as above

    def speaks(self, endpoint: Endpoint) -> str:
        api = endpoint.options.get("api") or "auto"
        if api == "invoke" or (api == "auto" and "anthropic." in endpoint.model):
            return "anthropic_messages"
        return "bedrock_converse"

    def check(self, endpoint: Endpoint) -> None:
        super().check(endpoint)
        if not _REGION.match(endpoint.options["region"]):
            raise BadOption("The option region is not a region like us-east-1.")

    def url(self, endpoint: Endpoint, action: Action) -> str:
        """The model as one path segment: the colon of `...-v1:0` and the slashes of an ARN are encoded."""
        base = endpoint.base_url or f"https://{host(endpoint.options['region'])}"
        if action == "count":  # takes a model's own id only, not an inference profile's
            return f"{base}/model/{segment(_PROFILE.sub('', endpoint.model))}/count-tokens"
        return f"{base}/model/{segment(endpoint.model)}/{OPERATIONS[self.speaks(endpoint), action]}"

    def payload(self, endpoint: Endpoint, payload: dict[str, Any], action: Action) -> dict[str, Any]:
        kept = {name: value for name, value in payload.items() if name not in ("model", "modelId", "stream")}
        if self.speaks(endpoint) == "bedrock_converse":
            return {"input": {"converse": kept}} if action == "count" and "input" not in kept else kept
        body = {"anthropic_version": endpoint.options.get("anthropic_version") or ANTHROPIC_VERSION, **kept}
        if beta := endpoint.options.get("anthropic_beta"):
            body["anthropic_beta"] = [each.strip() for each in beta.split(",")]
        if action == "count":  # must be a body that could be invoked
            thinking = (body.get("thinking") or {}).get("budget_tokens") or 0
            body = {"max_tokens": thinking + 1, **body}
            return {"input": {"invokeModel": {"body": base64.b64encode(json.dumps(body)).decode()}}}
        return body

    async def prepare(self, endpoint: Endpoint, payload: dict[str, Any] | bytes, action: Action) -> UpstreamRequest:
        body = payload if isinstance(payload, bytes) else json.dumps(self.payload(endpoint, payload, action))
        url = self.url(endpoint, action)
        headers = {"content-type": "application/json", "accept": STREAM if action == "stream" else "application/json"}
        if token := endpoint.credential.get("bearer_token"):
            headers["authorization"] = f"Bearer {token}"
        else:
            keys = await aws_keys(endpoint.credential)
            headers = sign(keys, endpoint.options["region"], url, headers, body)
        return UpstreamRequest(url, {"accept-encoding": "identity", **endpoint.headers, **headers}, body)


def host(region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    if region.startswith("eusc-"):
        suffix = "amazonaws.eu"
    return f"bedrock-runtime.{region}.{suffix}"


def sign(keys: Any, region: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """`headers` with SigV4's own, over exactly these bytes. Signing name: bedrock, not bedrock-runtime.

    Only headers that nothing rewrites on the way are signed.
    """
    from botocore.auth import SigV4Auth  # noqa: PLC0415 - 30 MB of package that only this backend needs
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - as above

    request = AWSRequest(method="POST", url=url, data=body, headers=dict(headers))
    SigV4Auth(keys, "bedrock", region).add_auth(request)
    return {name.lower(): str(value) for name, value in request.headers.items()}


async def aws_keys(credential: Mapping[str, str]) -> Any:
    """What to sign with. Raises UpstreamError (credential)."""
    from botocore.credentials import Credentials  # noqa: PLC0415 - as above

    if access_key := credential.get("aws_access_key_id"):
        return Credentials(access_key, credential["aws_secret_access_key"], credential.get("aws_session_token"))
    frozen = await asyncio.to_thread(_chain.frozen)
    if frozen is None:
        raise UpstreamError("credential", "This machine's AWS credential chain holds nothing.", sent=False)
    return frozen


class _Chain:
    """This machine's credential chain. botocore renews what expires; that blocks, so it is asked in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Any = None

    def frozen(self) -> Any:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - as above
        from botocore.session import get_session  # noqa: PLC0415 - as above

        try:
            with self._lock:
                if self._found is None:
                    self._found = get_session().get_credentials()
                return self._found and self._found.get_frozen_credentials()
        except BotoCoreError:
            return None


_chain = _Chain()

backend = Bedrock()
