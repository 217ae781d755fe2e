"""Function names: what Gemini allows and the vendor does not, and the way back."""

from __future__ import annotations

import hashlib
import re

LIMITS = {"chat_completions": 64, "responses": 64, "bedrock_converse": 64, "anthropic_messages": 128}
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")


class Names:
    """The names of one request. `there(name)` is the vendor's; `back` maps vendor's names to the client's.

    A legal name stays as it is; any other gets its illegal characters replaced and a hash of the original, so that
    the same name always becomes the same one and two never meet. `back` holds only names that changed: a name that
    is not in it is the client's own.
    """

    __slots__ = ("_legal", "_limit", "_there", "back")

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._legal = _LEGAL[limit] if limit in _LEGAL else re.compile(rf"[a-zA-Z0-9_-]{{1,{limit}}}")
        self._there: dict[str, str] = {}
        self.back: dict[str, str] = {}

    def there(self, name: str) -> str:
        if self._legal.fullmatch(name):
            return name
        known = self._there.get(name)
        if known is None:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            known = f"{_ILLEGAL.sub('_', name)[: self._limit - 9]}_{digest}"
            self._there[name] = known
            self.back[known] = name
        return known


_LEGAL = {limit: re.compile(rf"[a-zA-Z0-9_-]{{1,{limit}}}") for limit in set(LIMITS.values())}
