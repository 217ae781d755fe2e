"""The one table: how our own exceptions are told in Google's words.

An upstream's 401 or 403 is the operator's trouble and never reaches a client as its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gemini_api.errors import (
    Aborted,
    DeadlineExceeded,
    GeminiError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    error_info,
    localized,
    quota_failure,
)
from keys.context import Caller, LimitRule
from keys.limits.base import LimitReached, LimitsUnavailable
from keys.policy import Denied
from routing.errors import NoDeployment, UpstreamError, UpstreamRefusal
from usage.spool import SpoolFull

logger = logging.getLogger("gatehouse.calls")
NOT_VALID = "API key not valid. Please pass a valid API key."
NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). "
    "Please use API Key or other form of API consumer identity to call this API."
)


def told(trouble: Exception) -> GeminiError:
    """What the client hears of `trouble`. What is nobody's known trouble is ours: logged, and 500."""
    if isinstance(trouble, GeminiError):
        return trouble
    for kind, words in TOLD_AS.items():
        if isinstance(trouble, kind):
            return words(trouble)
    logger.exception("A call failed", exc_info=trouble)
    return GeminiError()


def caller_refused(caller: Caller) -> GeminiError:
    """Why a caller without a context is refused. An unreachable key store is never an auth error."""
    match caller.problem:
        case "missing":
            return PermissionDenied(NO_KEY)
        case "unavailable":
            return Unavailable("The API key could not be checked right now. Please try again.", retry_after=1)
        case "expired":
            message = "API key expired. Please renew the API key."
        case _:
            message = NOT_VALID
    details = [
        error_info("API_KEY_INVALID", "googleapis.com", {"service": "generativelanguage.googleapis.com"}),
        localized(message),
    ]
    if caller.source == "bearer":
        return Unauthenticated(message, details=details)
    return InvalidArgument(message, details=details)


def _denied(trouble: Exception) -> GeminiError:
    return PermissionDenied(str(trouble))


def _no_deployment(trouble: Exception) -> GeminiError:
    assert isinstance(trouble, NoDeployment)
    if trouble.reason == "none":
        return NotFound(f"models/{trouble.model} has no deployment. Please ask your administrator to add one.")
    message = "The model is overloaded. Please try again later."
    if trouble.reason == "rate_limited":
        return ResourceExhausted(message, retry_after=trouble.retry_after or 1)
    return Unavailable(message, retry_after=trouble.retry_after or 1)


def _upstream(trouble: Exception) -> GeminiError:
    assert isinstance(trouble, UpstreamError)
    metadata = {
        name: value
        for name, value in (
            ("provider_status", str(trouble.provider_status or "")),
            ("provider_code", trouble.provider_code),
            ("request_id", trouble.request_id),
        )
        if value
    }
    details = [*trouble.details, error_info("UPSTREAM_ERROR", metadata=metadata)]
    after = trouble.retry_after
    match trouble.kind:
        case "invalid":
            return InvalidArgument(trouble.message, details=details)
        case "too_long":
            return InvalidArgument(
                trouble.message or "The input token count exceeds the maximum number of tokens allowed.",
                details=details,
            )
        case "not_found":
            return NotFound("The model was not found at its provider. Please ask your administrator.", details=details)
        case "timeout":
            return DeadlineExceeded("The model did not answer in time.", details=details)
        case "rate_limited":
            return ResourceExhausted(
                "The model's provider is limiting requests. Please try again later.",
                details=details,
                retry_after=after or 5,
            )
        case "billing":
            return ResourceExhausted(
                "The model's provider refuses more calls. Please ask your administrator.", details=details
            )
        case "conflict":
            return Aborted("The call conflicted with another one. Please try again.", details=details)
        case "server":
            return GeminiError("The model's provider had an internal error.", details=details)
        case "credential":
            return Unavailable("The model is not available right now. Please ask your administrator.", details=details)
        case "cut":
            return Unavailable("The model's answer broke off. Please try again.", details=details)
        case "protocol":
            return GeminiError("The model's provider sent an answer that could not be read.", details=details)
        case _:
            return Unavailable("The model is overloaded. Please try again later.", details=details, retry_after=after)


def _refusal(trouble: Exception) -> GeminiError:
    logger.warning("An upstream refusal reached the client untranslated: %s", trouble)
    return Unavailable("The model is not available right now. Please try again later.")


_PERIOD = {
    "minute": "PerMinute",
    "hour": "PerHour",
    "day": "PerDay",
    "week": "PerWeek",
    "month": "PerMonth",
    "lifetime": "Lifetime",
}
_METRIC = {"requests": "Requests", "tokens": "Tokens", "concurrent": "ConcurrentRequests", "spend": "Spend"}
_SUBJECT = {"key": "PerKey", "team": "PerTeam", "organization": "PerOrganization"}


def quota_id(rule: LimitRule) -> str:
    """RequestsPerMinutePerKey, SpendPerMonthPerTeam ... gemini-cli looks for PerDay and PerMinute in it."""
    period = "" if rule.metric == "concurrent" else _PERIOD[rule.period]
    return f"{_METRIC[rule.metric]}{period}{_SUBJECT[rule.subject]}"


def quota_value(rule: LimitRule) -> str:
    """The limit as people wrote it: dollars for spend."""
    if rule.metric != "spend":
        return str(rule.amount)
    whole, nano = divmod(rule.amount, 10**9)
    return f"{whole}.{nano:09d}".rstrip("0").rstrip(".")


def _limit_reached(trouble: Exception) -> GeminiError:
    assert isinstance(trouble, LimitReached)
    rule = trouble.rule
    unit = {"requests": "requests", "tokens": "tokens", "concurrent": "concurrent calls", "spend": "USD"}[rule.metric]
    per = (
        "" if rule.metric == "concurrent" else {"lifetime": " in its lifetime"}.get(rule.period, f" per {rule.period}")
    )
    violation = {
        "quotaMetric": f"gatehouse/{rule.metric}",
        "quotaId": quota_id(rule),
        "quotaDimensions": {"model": trouble.model},
        "quotaValue": quota_value(rule),
        "subject": f"{rule.subject}:{rule.subject_id}",
    }
    models = "" if rule.pattern == "*" else f" for {rule.pattern}"
    message = f"You exceeded the current quota of this {rule.subject}: {quota_value(rule)} {unit}{per}{models}."
    return ResourceExhausted(message, details=[quota_failure([violation])], retry_after=trouble.retry_after)


def _limits_unavailable(trouble: Exception) -> GeminiError:
    return Unavailable("Limits cannot be checked right now. Please try again.", retry_after=2)


def _not_recordable(trouble: Exception) -> GeminiError:
    """The disk is full: what cannot be written down is not sent. The spool has logged it, once."""
    return Unavailable("Calls cannot be recorded right now. Please try again later.", retry_after=5)


TOLD_AS: dict[type[Exception], Callable[[Exception], GeminiError]] = {
    Denied: _denied,
    LimitReached: _limit_reached,
    LimitsUnavailable: _limits_unavailable,
    NoDeployment: _no_deployment,
    SpoolFull: _not_recordable,
    UpstreamError: _upstream,
    UpstreamRefusal: _refusal,
}
