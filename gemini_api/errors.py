"""GeminiError and its kinds: what a client is told, in Google's shape (google.rpc.Status as JSON).

    GeminiError              500 INTERNAL
    ├── InvalidArgument      400 INVALID_ARGUMENT
    ├── Unauthenticated      401 UNAUTHENTICATED
    ├── PermissionDenied     403 PERMISSION_DENIED
    ├── NotFound             404 NOT_FOUND
    ├── MethodNotAllowed     405 INVALID_ARGUMENT
    ├── Aborted              409 ABORTED
    ├── TooLarge             413 INVALID_ARGUMENT
    ├── ResourceExhausted    429 RESOURCE_EXHAUSTED
    ├── Cancelled            499 CANCELLED
    ├── Unimplemented        501 UNIMPLEMENTED
    ├── Unavailable          503 UNAVAILABLE
    └── DeadlineExceeded     504 DEADLINE_EXCEEDED

The message is a sentence for the person who reads it. Details are google.rpc messages with their @type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

Json = dict[str, Any]
_TYPE = "type.googleapis.com/google.rpc."


class GeminiError(Exception):
    """Something the client is told. The message is written for the client."""

    code: ClassVar[int] = 500
    status: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str = "An internal error has occurred.",
        *,
        details: Iterable[Json] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.details = list(details)
        self.retry_after = retry_after
        self.answer_headers: dict[str, str] = {}  # of the call it ended: request id, limits
        if retry_after is not None:
            self.details.append(retry_info(retry_after))

    def body(self) -> Json:
        """{"error": {...}}, as Google writes it."""
        error: Json = {"code": self.code, "message": str(self), "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}

    def headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return self.answer_headers
        return {**self.answer_headers, "Retry-After": str(max(1, math.ceil(self.retry_after)))}


class InvalidArgument(GeminiError):
    """The caller's request is wrong; `field` names where (a path such as contents[0].parts[1])."""

    code, status = 400, "INVALID_ARGUMENT"

    def __init__(self, message: str, *, field: str = "", details: Iterable[Json] = ()) -> None:
        found = list(details)
        if field:
            found.append(bad_request(field, message))
        super().__init__(message, details=found)
        self.field = field


class Unauthenticated(GeminiError):
    code, status = 401, "UNAUTHENTICATED"


class PermissionDenied(GeminiError):
    code, status = 403, "PERMISSION_DENIED"


class NotFound(GeminiError):
    code, status = 404, "NOT_FOUND"


class MethodNotAllowed(GeminiError):
    """`allowed`: the verb that is right, as RFC 9110 wants it told."""

    code, status = 405, "INVALID_ARGUMENT"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.answer_headers = {"Allow": allowed}


class Aborted(GeminiError):
    code, status = 409, "ABORTED"


class TooLarge(GeminiError):
    code, status = 413, "INVALID_ARGUMENT"


class ResourceExhausted(GeminiError):
    code, status = 429, "RESOURCE_EXHAUSTED"


class Cancelled(GeminiError):
    code, status = 499, "CANCELLED"


class Unimplemented(GeminiError):
    code, status = 501, "UNIMPLEMENTED"


class Unavailable(GeminiError):
    code, status = 503, "UNAVAILABLE"


class DeadlineExceeded(GeminiError):
    code, status = 504, "DEADLINE_EXCEEDED"


def error_info(reason: str, domain: str = "gatehouse", metadata: Mapping[str, str] | None = None) -> Json:
    return {"@type": _TYPE + "ErrorInfo", "reason": reason, "domain": domain, "metadata": dict(metadata or {})}


def bad_request(field: str, description: str) -> Json:
    return {"@type": _TYPE + "BadRequest", "fieldViolations": [{"field": field, "description": description}]}


def retry_info(seconds: float) -> Json:
    """Duration as protobuf JSON writes it: whole seconds, or milliseconds as three digits."""
    whole = math.ceil(seconds * 1000) / 1000
    text = f"{int(whole)}s" if whole == int(whole) else f"{whole:.3f}s"
    return {"@type": _TYPE + "RetryInfo", "retryDelay": text}


def quota_failure(violations: Iterable[Json]) -> Json:
    return {"@type": _TYPE + "QuotaFailure", "violations": list(violations)}


def localized(message: str) -> Json:
    return {"@type": _TYPE + "LocalizedMessage", "locale": "en-US", "message": message}


def help_link(description: str, url: str) -> Json:
    return {"@type": _TYPE + "Help", "links": [{"description": description, "url": url}]}
