"""Log lines, through structlog: one event a line, text for people or JSON for machines, secrets taken out.

A log line never needs a secret; the redactor is the second line of defence, for texts of libraries and exceptions.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Our own keys, Google's, OpenAI's and Anthropic's, AWS ids, bearer headers, ?key=, PEM blocks.
SECRETS = re.compile(
    r"gate_[0-9A-Za-z]{46}|AIza[0-9A-Za-z_-]{30,}|sk-[0-9A-Za-z_-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|(?<=[Bb]earer )[0-9A-Za-z._~+/=-]{8,}|(?<=[?&]key=)[^&\s\"']+"
    r"|-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----",
    re.DOTALL,
)
MASK = "•••"


def redacted(text: str) -> str:
    return SECRETS.sub(MASK, text)


def redact(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redacted(value)
    return event


def set_up(level: str, style: str) -> None:
    """style: "json" or "text"."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    last: Any = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx2", "httpcore2", "asyncio", "botocore", "urllib3", "google", "fido2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # One line per call would cost more than the call: the ledger has them. Django's own requests are the admin's.
    logging.getLogger("uvicorn.access").disabled = True
