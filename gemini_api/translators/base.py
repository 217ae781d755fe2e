"""What every translator is: a pure module that turns Gemini into one language and back. No I/O, no Django.

A translator module has

    language: str                                      its own module name
    def request(body: Json, target: Target) -> Letter
    def response(answer: Json, memo: Memo) -> Json     one unary answer, as a GenerateContentResponse
    def error(refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json
                                                       a refusal understood; Json when it is really an answer
                                                       (a blocked prompt is 200 with promptFeedback)
    class Stream:                                      one stream's memory
        def __init__(self, memo: Memo) -> None
        def feed(self, frame: Frame) -> list[Json]     chunks that may leave now
        def finish(self) -> list[Json]                 what is left at the upstream's end; the last chunk has
                                                       finishReason and usageMetadata; raises
                                                       UpstreamError("cut") when there was no proper end
        ended: bool                                    True once nothing more is needed from the upstream (a
                                                       stop sequence was found here): the caller may hang up
    DISPENSABLE: Mapping[str, str]                     optional: parameters (dotted, in the vendor's words) that a second
                                                       try may leave out -> the client's field that is lost with it,
                                                       "" when nothing is; what `UpstreamError.drop_field` may say
    def embed_request(requests: list[Json], target: Target) -> Letter          optional
    def embed_response(answer: Json, memo: Memo) -> list[list[float]]          optional
    def count_request(body: Json, target: Target) -> Letter                    optional: the vendor's own counter
    def count_response(answer: Json) -> int                                    optional
    def embed_usage(answer: Json) -> Json                                      optional: usageMetadata, or {}
    def request_bytes(raw: bytes, body: Json, target: Target) -> Letter        optional: may hand on the client's bytes;
                                                                               `body` is `raw` parsed, not normalised
    def response_bytes(raw: bytes, answer: Json, memo: Memo) -> Json           optional: may hand on the upstream's

Any chunk or answer may be `Raw`: that one leaves as the bytes it holds, not as what a codec makes of it.

Private keys begin with "_" and never reach a client or an upstream: `_unknown` (paths of unknown fields) in a
normalised request; `_cacheWriteTokens` and `_estimated` in usageMetadata, which the door takes out with
`usage.take_private` (never in Raw).

`body` is a normalised Gemini request (`wire.normalise`: camelCase field names, lists where lists belong, nulls
gone, standard base64, upper-case enums); it is never changed, because a retry reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Frame

Json = dict[str, Any]


@dataclass(slots=True)  # not frozen: that makes one for each call three times as dear
class Target:
    """What a translator needs to know of the deployment it writes for.

    model: the upstream model. base_model: what to look up in capability tables (Azure deployment names tell
    nothing), the upstream model when not set. capabilities: the deployment's own overrides of the shipped table.
    scope: short hash of the credential's scope; tenant: organization id; both go into the signature envelope.
    strict: every loss becomes an InvalidArgument that names the field.
    signed_anew: a second try after signatures were refused: they are gone, and calls get the dummy where there is one.
    options: the connection's options (api, publisher, ...).
    """

    model: str
    stream: bool = False
    base_model: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""
    tenant: str = ""
    strict: bool = False
    signed_anew: bool = False


@dataclass(slots=True)
class Memo:
    """What reading the answer needs to know of the question. Written once by `request`, then only read.

    names: vendor's function name -> the client's. wrapped: "" or "json" or "enum": the root schema was wrapped
    in {"value": ...}. thoughts: the client wants thought summaries. stops: stop sequences to be found here, because
    the vendor cannot. model, response_id: what `modelVersion` and `responseId` say when the vendor's answer does
    not. prompt_tokens: our estimate, for answers without usage.
    """

    model: str = ""
    response_id: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    wrapped: str = ""
    thoughts: bool = False
    stops: tuple[str, ...] = ()
    json_fallback: bool = False
    scope: str = ""
    tenant: str = ""
    prompt_tokens: int = 0
    action: str = "generate"


@dataclass(slots=True)  # as above
class Letter:
    """One request in the vendor's words. `payload` as bytes goes out unchanged.

    dropped: field paths of the client's request that were left out (class W), in Gemini's camelCase.
    sealed: whether the payload carries reasoning of an earlier turn; if the upstream refuses it, one retry
    without is fair: `request(wire without signatures)`.
    """

    payload: Json | bytes
    memo: Memo
    dropped: tuple[str, ...] = ()
    sealed: bool = False


class Raw(Json):
    """A chunk (or a whole answer) that leaves as the upstream's own bytes: `data`, JSON on one line, without raw line
    breaks of any kind. As a dict it is the same JSON parsed, for whoever reads usage and finish reason in passing.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes, parsed: Json) -> None:
        super().__init__(parsed)
        self.data = data


class StreamTranslator(Protocol):
    """`counted`, where a translator has it: the usageMetadata that the vendor told so far, before its last word. The prompt
    of a stream that is broken off is charged by it.
    """

    @property
    def ended(self) -> bool: ...

    def __init__(self, memo: Memo) -> None: ...
    def feed(self, frame: Frame) -> list[Json]: ...
    def finish(self) -> list[Json]: ...


class Translator(Protocol):
    """A translator module, seen as an object."""

    language: str
    Stream: type[StreamTranslator]

    def request(self, body: Json, target: Target) -> Letter: ...
    def response(self, answer: Json, memo: Memo) -> Json: ...
    def error(self, refusal: UpstreamRefusal, memo: Memo) -> UpstreamError | Json: ...


class EmbeddingTranslator(Translator, Protocol):
    """A translator whose language has embeddings."""

    def embed_request(self, requests: list[Json], target: Target) -> Letter: ...
    def embed_response(self, answer: Json, memo: Memo) -> list[list[float]]: ...
    def embed_usage(self, answer: Json) -> Json: ...


class CountingTranslator(Translator, Protocol):
    """A translator whose vendor counts tokens exactly."""

    def count_request(self, body: Json, target: Target) -> Letter: ...
    def count_response(self, answer: Json) -> int: ...
