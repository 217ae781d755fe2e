"""Pictures, documents, sound and films: read from a part, and which vendor takes which, as tables.

The server never fetches a client's URL: it is handed on where the vendor takes one, and refused everywhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

from gemini_api.errors import InvalidArgument
from gemini_api.translators.base import Json
from gemini_api.translators.losses import Losses

Kind = Literal["image", "pdf", "text", "audio", "video", ""]
Place = Literal["inline", "https", "gs", "s3", "files", "video_site", "other"]

IMAGE_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp", "image/gif": "gif"}
AUDIO_FORMATS = {"audio/wav": "wav", "audio/mp3": "mp3"}
VIDEO_FORMATS = {
    "video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm", "video/x-flv": "flv",
    "video/mpeg": "mpeg", "video/mpg": "mpg", "video/wmv": "wmv", "video/x-ms-wmv": "wmv", "video/3gpp": "three_gp",
}  # fmt: skip
# Types that are text although their first word is not.
_TEXT_TYPES = frozenset(
    {
        "application/json", "application/xml", "application/javascript", "application/x-javascript", "application/yaml",
        "application/x-yaml", "application/x-python", "application/x-python-code", "application/typescript",
        "application/x-sh", "application/sql", "application/toml", "application/x-ipynb+json", "application/rtf",
    }
)  # fmt: skip
_SYNONYMS = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "audio/mpeg": "audio/mp3", "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav", "audio/vnd.wave": "audio/wav", "application/x-pdf": "application/pdf",
    "video/mov": "video/quicktime",
}  # fmt: skip
_VIDEO_SITES = ("youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be")
_FILES_HOST = "generativelanguage.googleapis.com"

# What each language takes: (place, kind). Everything else is a 400. Audio and film depend on the model besides.
TAKES: dict[str, frozenset[tuple[Place, Kind]]] = {
    "chat_completions": frozenset(
        {("inline", "image"), ("inline", "pdf"), ("inline", "text"), ("inline", "audio"), ("https", "image")}
    ),
    "responses": frozenset(
        {("inline", "image"), ("inline", "pdf"), ("inline", "text"), ("https", "image"), ("https", "pdf")}
    ),
    "anthropic_messages": frozenset(
        {("inline", "image"), ("inline", "pdf"), ("inline", "text"), ("https", "image"), ("https", "pdf")}
    ),
    "bedrock_converse": frozenset(
        {
            ("inline", "image"), ("inline", "pdf"), ("inline", "text"), ("inline", "audio"), ("inline", "video"),
            ("s3", "image"), ("s3", "pdf"), ("s3", "video"),
        }
    ),
}  # fmt: skip
# mediaResolution -> OpenAI's `detail`
DETAILS = {
    "MEDIA_RESOLUTION_LOW": "low",
    "MEDIA_RESOLUTION_HIGH": "high",
    "MEDIA_RESOLUTION_ULTRA_HIGH": "high",
}


@dataclass(slots=True)
class Media:
    """One file of a turn.

    mime: without parameters, synonyms resolved. data: standard base64, "" when the file lies elsewhere. uri: where.
    kind "" is a type no vendor but Gemini takes. detail: "low", "high" or "" (of the part's own mediaResolution).
    path: the field in the client's request, for refusals.
    """

    mime: str
    data: str
    uri: str
    name: str
    kind: Kind
    place: Place
    detail: str
    path: str

    @property
    def data_url(self) -> str:
        return f"data:{self.mime};base64,{self.data}"

    def decoded_text(self) -> str:
        """A text file's text. Raises InvalidArgument when it is not UTF-8."""
        try:
            return base64.b64decode(self.data).decode()
        except UnicodeDecodeError:
            raise InvalidArgument(f"The file at '{self.path}' is not UTF-8 text.", field=self.path) from None

    @property
    def size(self) -> int:
        """Bytes after decoding; 0 when the file lies elsewhere."""
        return len(self.data) * 3 // 4


def read(part: Json, where: str, losses: Losses | None = None) -> Media:
    """The file of a part with `inlineData` or `fileData`. `where` is the part's path."""
    detail = DETAILS.get(part.get("mediaResolution", {}).get("level", ""), "")
    if "inlineData" in part:
        blob = part["inlineData"]
        mime = _mime(blob.get("mimeType", ""))
        name = blob.get("displayName", "")
        return Media(mime, blob.get("data", ""), "", name, kind_of(mime), "inline", detail, f"{where}.inlineData")
    if "fileData" not in part:
        raise InvalidArgument(f"The part at '{where}' holds no file.", field=where)
    file = part["fileData"]
    uri, path = file.get("fileUri", ""), f"{where}.fileData"
    mime, name = _mime(file.get("mimeType", "")), file.get("displayName", "")
    if uri[:5].lower() == "data:":
        mime, data = _data_uri(uri, path)
        return Media(mime, data, "", name, kind_of(mime), "inline", detail, path)
    return Media(mime, "", uri, name, kind_of(mime or _guessed(uri)), place_of(uri), detail, path)


def check(item: Media, takes: Collection[tuple[Place, Kind]], losses: Losses) -> None:
    """Refuse (400) what the vendor does not take."""
    if (item.place, item.kind) in takes:
        return
    if item.place != "inline":
        losses.refuse(f"{item.path}.fileUri", f"{losses.backend} cannot take a file from this place.")
    losses.refuse(f"{item.path}.mimeType", f"{losses.backend} cannot take a file of type '{item.mime}'.")


def kind_of(mime: str) -> Kind:
    if mime in IMAGE_FORMATS:
        return "image"
    if mime == "application/pdf":
        return "pdf"
    if mime in AUDIO_FORMATS:
        return "audio"
    if mime.startswith("video/"):
        return "video"
    if mime.startswith("text/") or mime in _TEXT_TYPES or mime.endswith(("+json", "+xml")):
        return "text" if mime != "image/svg+xml" else ""
    return ""


def place_of(uri: str) -> Place:
    """Where a URI points. Only https, and only to a host, counts as a place a vendor may fetch from."""
    try:
        split = urlsplit(uri)
        host = split.hostname or ""
    except ValueError:
        return "other"
    if split.scheme == "gs":
        return "gs"
    if split.scheme == "s3":
        return "s3"
    if split.scheme != "https" or not host:
        return "files" if uri.startswith("files/") else "other"
    if host == _FILES_HOST:
        return "files"
    return "video_site" if host in _VIDEO_SITES else "https"


def _mime(given: str) -> str:
    mime = given.partition(";")[0].strip().lower()
    return _SYNONYMS.get(mime, mime)


_BY_ENDING = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
              "pdf": "application/pdf", "mp4": "video/mp4", "wav": "audio/wav", "mp3": "audio/mp3"}  # fmt: skip


def _guessed(uri: str) -> str:
    return _BY_ENDING.get(urlsplit(uri).path.rpartition(".")[2].lower(), "")


def _data_uri(uri: str, path: str) -> tuple[str, str]:
    head, comma, rest = uri[5:].partition(",")
    if not comma:
        raise InvalidArgument(f"The data URI at '{path}' has no data.", field=path)
    try:
        raw = unquote_to_bytes(rest)
        if head.lower().endswith(";base64"):
            raw = base64.b64decode(raw, validate=True)
    except binascii.Error:
        raise InvalidArgument(f"The data URI at '{path}' is not base64.", field=path) from None
    return _mime(head) or "text/plain", base64.b64encode(raw).decode()
