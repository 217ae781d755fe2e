"""Mail to people: invitations, new passwords, reminders. It goes by EMAIL_URL; without one there is no mail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import send_mail

from lib.database import own_connection

logger = logging.getLogger(__name__)

# One thread: whoever asks for a new password must not learn from the wait whether there was anybody to write to.
_postman = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mail")


def configured() -> bool:
    return not settings.EMAIL_BACKEND.endswith("smtp.EmailBackend") or bool(settings.EMAIL_HOST)


def send(to: Iterable[str], subject: str, text: str) -> str:
    """Send it now. Returns "", or why it could not be sent."""
    if not configured():
        return "Mail is not set up here (EMAIL_URL)."
    try:
        send_mail(f"[Gatehouse] {subject}", text, None, list(to))
    except (OSError, SMTPException) as error:  # no server, or one that refuses
        logger.warning("A mail could not be sent: %s", type(error).__name__)
        return f"The mail could not be sent ({type(error).__name__})."
    return ""


def later(work: Callable[[], object]) -> Future[object]:
    """Do it in the mail thread, after what waits there already."""
    return _postman.submit(_apart, work)


def _apart(work: Callable[[], object]) -> object:
    with own_connection():
        return work()
