"""AWS's own errors, as refusals and as exception frames of an event stream: the same names for every Bedrock language."""

from __future__ import annotations

import re

from gemini_api.translators import errors
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal
from routing.framing import Frame

_KINDS: dict[str, Kind] = {
    "ValidationException": "invalid",
    "AccessDeniedException": "credential",
    "UnrecognizedClientException": "credential",
    "ExpiredTokenException": "credential",
    "InvalidSignatureException": "credential",
    "IncompleteSignatureException": "credential",
    "MissingAuthenticationTokenException": "credential",
    "RequestTimeTooSkewed": "credential",
    "ResourceNotFoundException": "not_found",
    "ModelTimeoutException": "timeout",
    "ModelErrorException": "unavailable",
    "ModelStreamErrorException": "unavailable",
    "ThrottlingException": "rate_limited",
    "ModelNotReadyException": "unavailable",
    "ServiceQuotaExceededException": "rate_limited",
    "InternalServerException": "server",
    "ServiceUnavailableException": "unavailable",
}
# A ValidationException that is about the deployment, not about the request.
_NO_SUCH_MODEL = re.compile(
    r"(?i)model identifier is invalid|on-demand throughput isn.t supported|doesn.t support the model"
)
_TYPE, _REQUEST = "x-amzn-errortype", "x-amzn-requestid"


def is_ours(refusal: UpstreamRefusal) -> bool:
    return _TYPE in refusal.headers or _REQUEST in refusal.headers


def understood(refusal: UpstreamRefusal) -> UpstreamError:
    """The name comes in a header (Name:http://...) or in the body (prefix#Name)."""
    body = errors.read(refusal.body)
    name = _name(refusal.headers.get(_TYPE) or body.type)
    return errors.of_kind(
        _kind(name, body.message) or errors.kind_of_status(refusal.status),
        _told(name, body.message),
        status=refusal.status,
        retry_after=errors.retry_after(refusal.headers, body),
        request_id=refusal.headers.get(_REQUEST, ""),
    )


def exception(frame: Frame) -> UpstreamError:
    """An exception (or error) frame. The model's own failure may carry the status that it had."""
    try:
        body = errors.read_value(json.loads(frame.data))
    except json.JSONDecodeError:
        body = errors.ErrorBody(frame.data.decode(errors="replace"))
    name = _name(frame.event)
    original = body.raw.get("originalStatusCode")
    if isinstance(original, int) and not isinstance(original, bool):
        told = body.raw.get("originalMessage") or body.message
        return errors.of_kind(errors.kind_of_status(original), _told(name, str(told)), status=original)
    return errors.of_kind(_kind(name, body.message) or "unavailable", _told(name, body.message))


def _kind(name: str, message: str) -> Kind | None:
    kind = _KINDS.get(name)
    return "not_found" if kind == "invalid" and _NO_SUCH_MODEL.search(message) else kind


def _told(name: str, message: str) -> errors.ErrorBody:
    return errors.ErrorBody(message=message, code=name)


def _name(text: str) -> str:
    """ThrottlingException, from throttlingException, ThrottlingException:http://..., com.amazon#ThrottlingException."""
    name = text.partition(":")[0].rpartition("#")[2]
    return name[:1].upper() + name[1:]
