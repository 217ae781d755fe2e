"""Small form fields for lists and expiry: one entry a line instead of raw JSON, a choice instead of a calendar."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextareaWidget


class LinesField(forms.CharField):
    """A list of short texts, one a line. Clean value: a list; `empty` (None or []) when nothing is given."""

    def __init__(self, *, empty: list[str] | None = None, each_max: int = 200, rows: int = 3, **kwargs: Any) -> None:
        self.empty, self.each_max = empty, each_max
        kwargs.setdefault("required", False)
        kwargs.setdefault("widget", UnfoldAdminTextareaWidget(attrs={"rows": rows, "spellcheck": "false"}))
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(str(each) for each in value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        return lines(value)

    def clean(self, value: Any) -> Any:
        found: list[str] = lines(value)
        if self.required and not found:
            raise ValidationError("Give at least one line.")
        for each in found:
            if len(each) > self.each_max:
                raise ValidationError(f"A line may have at most {self.each_max} characters.")
            self.check(each)
        return found or (list(self.empty) if self.empty is not None else None)

    def check(self, line: str) -> None:
        """Raise ValidationError when one line will not do."""

    def has_changed(self, initial: Any, data: Any) -> bool:
        return lines(data) != list(initial or [])


class NetworksField(LinesField):
    """CIDR ranges, one a line. A single address is a range of one."""

    def check(self, line: str) -> None:
        try:
            ipaddress.ip_network(line, strict=False)
        except ValueError as error:
            raise ValidationError(f"“{line}” is not a network: {error}. Right would be 10.0.0.0/8.") from None


class MailsField(LinesField):
    def check(self, line: str) -> None:
        forms.EmailField().clean(line)


class HeadersField(LinesField):
    """HTTP headers, one `Name: value` a line. Clean value: a dict."""

    RESERVED = frozenset({"authorization", "host", "content-length", "transfer-encoding", "connection", "content-type"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name}: {text}" for name, text in value.items()) if isinstance(value, dict) else value

    def check(self, line: str) -> None:
        name, colon, text = line.partition(":")
        if not colon or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or not text.strip():
            raise ValidationError(f"“{line}” is not a header. Right would be X-Project: blue.")
        if name.strip().lower() in self.RESERVED:
            raise ValidationError(f"The header {name.strip()} is set by the gateway itself.")

    def clean(self, value: Any) -> dict[str, str]:
        found = super().clean(value) or []
        return {name.strip(): text.strip() for name, _colon, text in (line.partition(":") for line in found)}

    def has_changed(self, initial: Any, data: Any) -> bool:
        return lines(self.prepare_value(initial or {})) != lines(data)


def lines(value: Any) -> list[str]:
    """Text as its non-empty lines, each once, in order."""
    if isinstance(value, list | tuple):
        return [str(each) for each in value]
    return list(dict.fromkeys(line.strip() for line in str(value or "").splitlines() if line.strip()))


EXPIRIES = [
    ("never", "Never"),
    ("7", "In 7 days"),
    ("30", "In 30 days"),
    ("90", "In 90 days"),
    ("365", "In a year"),
    ("custom", "At a date"),
]


class ExpiryWidget(forms.MultiWidget):
    """A choice; the date beside it counts for "At a date"."""

    def __init__(self) -> None:
        super().__init__(
            [
                UnfoldAdminSelectWidget(choices=EXPIRIES),
                UnfoldAdminSplitDateTimeWidget().widgets[0],
            ]
        )

    def decompress(self, value: Any) -> list[Any]:
        if isinstance(value, datetime):
            return ["custom", timezone.localtime(value).date()]
        return ["never", None]


class ExpiryField(forms.MultiValueField):
    """Clean value: an aware datetime, or None for never. A date means its last moment."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("required", False)
        super().__init__(
            fields=[forms.ChoiceField(choices=EXPIRIES), forms.DateField(required=False)],
            widget=ExpiryWidget(),
            require_all_fields=False,
            **kwargs,
        )

    def compress(self, data_list: list[Any]) -> datetime | None:
        choice, date = (data_list or ["never", None])[:2]
        if choice in ("", "never"):
            return None
        if choice != "custom":
            return timezone.now() + timedelta(days=int(choice))
        if date is None:
            raise ValidationError("Give the date, or choose another expiry.")
        return datetime(date.year, date.month, date.day, 23, 59, 59, tzinfo=timezone.get_current_timezone())

    def has_changed(self, initial: Any, data: Any) -> bool:
        before = self.widget.decompress(initial)
        return [str(each or "") for each in before] != [str(each or "") for each in data or ["never", None]]
