"""What a backend cannot take, and what follows: collected as losses, or refused.

Three classes (the policy of every translator):
    E  dropping it changes what the caller gets: `refuse`, a 400 before anything is sent
    W  a tuning hint: `drop`, the field is left out and named in header and record; strict turns it into E
    I  bookkeeping without effect on the output: simply not mapped
Paths are the client's, in camelCase: exact for a refusal (contents[0].parts[1].fileData), without indexes for a loss
(contents.parts.videoMetadata), so that the list stays short.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from gemini_api.errors import InvalidArgument
from gemini_api.translators.base import Json, Target

# Fields of generationConfig that no vendor but Google knows, and that only tune: W.
_HINTS = frozenset(
    {"audioTimestamp", "routingConfig", "modelSelectionConfig", "modelConfig", "enableEnhancedCivicAnswers"}
)
# Fields of generationConfig that change what comes back: E.
_CONTRACTS = frozenset({"responseFormat", "audioTranscriptionConfig", "translationConfig"})
# Top-level fields: E, W.
_TOP_CONTRACTS = frozenset({"cachedContent", "continuationToken"})
_TOP_HINTS = frozenset({"modelArmorConfig", "outputConfig"})
_UNFILTERED = frozenset({"OFF", "BLOCK_NONE"})


class Losses:
    """The losses of one letter. `backend` is the family's name for messages ("Anthropic Messages")."""

    __slots__ = ("_paths", "backend", "strict")

    def __init__(self, target: Target, backend: str) -> None:
        self.strict = target.strict
        self.backend = backend
        self._paths: dict[str, None] = {}

    def drop(self, path: str, why: str = "") -> None:
        """Class W: note that `path` is left out. Raises InvalidArgument when the key or model is strict."""
        if self.strict:
            self.refuse(path, why)
        self._paths[path] = None

    def refuse(self, path: str, why: str = "") -> NoReturn:
        """Class E: raises InvalidArgument naming the field and the backend's family."""
        sentence = why or f"A deployment that speaks {self.backend} cannot take it."
        raise InvalidArgument(f"Unsupported field '{path}'. {sentence}", field=path)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every loss once, in the order found."""
        return tuple(self._paths)


def check_common(body: Json, losses: Losses) -> None:
    """The rows of the policy that are the same for every backend that is not Gemini.

    Unknown fields are W. `candidateCount`, sampling, logprobs, thinking, media resolution: the translator's own.
    """
    for path in body.get("_unknown", ()):
        losses.drop(path)
    for name in body:
        if name in _TOP_CONTRACTS:
            losses.refuse(name)
        if name in _TOP_HINTS:
            losses.drop(name)
    if any(setting.get("threshold") not in _UNFILTERED for setting in body.get("safetySettings", ())):
        losses.drop("safetySettings")
    if "retrievalConfig" in body.get("toolConfig", {}):
        losses.drop("toolConfig.retrievalConfig")
    config = body.get("generationConfig")
    if config:
        _check_config(config, losses)


# What a knob says when it says nothing.
_SILENT = {"presencePenalty": 0, "frequencyPenalty": 0, "mediaResolution": "MEDIA_RESOLUTION_UNSPECIFIED"}


def drop_knobs(config: Json, names: Iterable[str], losses: Losses) -> None:
    """Class W for fields of generationConfig without a name at the vendor, unless they ask for nothing."""
    for name in names:
        if name in config and config[name] != _SILENT.get(name):
            losses.drop(f"generationConfig.{name}")


def _check_config(config: Json, losses: Losses) -> None:
    for name in config:
        if name in _HINTS:
            losses.drop(f"generationConfig.{name}")
        elif name in _CONTRACTS:
            losses.refuse(f"generationConfig.{name}")
    if any(modality != "TEXT" for modality in config.get("responseModalities", ())):
        losses.refuse("generationConfig.responseModalities", f"Only TEXT can come from {losses.backend}.")
