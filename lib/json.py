"""The one JSON codec: orjson, with the traps of JSON from strangers taken care of.

orjson accepts 1,000 levels, and leaves U+2028, U+2029 and U+0085 raw, where older clients of the Gemini API cut
their lines.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

JSONDecodeError = orjson.JSONDecodeError  # a ValueError
loads = orjson.loads  # of bytes or str
dumps = orjson.dumps  # compact bytes; not for clients' streams: see `dumps_line`


def dumps_line(value: Any) -> bytes:
    """Compact JSON that no line splitter breaks: U+2028, U+2029 and U+0085 leave as escapes."""
    return escape_line_breaks(orjson.dumps(value))


def escape_line_breaks(text: bytes) -> bytes:
    """Escape the three raw line breaks in JSON text. They can only stand inside strings, so this is safe."""
    if text.isascii() or (b"\xe2\x80" not in text and b"\xc2\x85" not in text):
        return text
    return (
        text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029").replace(b"\xc2\x85", b"\\u0085")
    )


def too_deep(text: bytes, limit: int = 64) -> bool:
    """Whether brackets nest deeper than `limit`. A scan over bytes: never recurses, reads strings as strings."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    depth = 0
    for token in _STRUCTURE.finditer(text):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif first in b"]}":
            depth -= 1
    return False


_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def canonical(value: Any) -> bytes:
    """Sorted keys, no white space: the same bytes for the same value."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
