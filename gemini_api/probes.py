"""One small request for each thing a backend may not take, and what a translator makes of it.

The documentation asks every language with them, so that what it says is what the code does; tests send them for real.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal

from gemini_api import wire
from gemini_api.errors import GeminiError
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Letter, Target

Json = dict[str, Any]
# mapped: it changes what is sent. here: the gateway does it itself. unused: it changes nothing and says nothing (bookkeeping,
# or what happens anyway). dropped: left out, and said (class W). refused: 400 (class E).
Fate = Literal["mapped", "here", "unused", "dropped", "refused"]


@dataclass(frozen=True)
class Probe:
    """title: what is asked for, in the client's words. body: a request with it; `without`: the same without it."""

    group: str
    title: str
    body: Json
    without: Json


@dataclass(frozen=True)
class Outcome:
    """fields: what is named as dropped, or the one that is refused."""

    fate: Fate
    fields: tuple[str, ...] = ()


def outcome(probe: Probe, language: str, target: Target) -> Outcome:
    """What this target's translator makes of a probe."""
    translator = TRANSLATORS[language]
    plain = translator.request(wire.normalise(probe.without), target)
    try:
        letter = translator.request(wire.normalise(probe.body), target)
    except GeminiError as error:
        return Outcome("refused", (field_of(error),))
    more = tuple(field for field in letter.dropped if field not in plain.dropped)
    if more:
        return Outcome("dropped", more)
    if letter.payload != plain.payload:
        return Outcome("mapped")
    return Outcome("unused" if _here(letter) == _here(plain) else "here")


def _here(letter: Letter) -> tuple[Any, ...]:
    memo = letter.memo
    return memo.stops, memo.wrapped, memo.json_fallback, memo.thoughts


def field_of(error: GeminiError) -> str:
    """The field that a refusal names."""
    return next((violation["field"] for detail in error.details for violation in detail.get("fieldViolations", ())), "")


# --- The requests -----------------------------------------------------------------------------------------------------


def user(*parts: Json) -> Json:
    return {"role": "user", "parts": list(parts)}


def model(*parts: Json) -> Json:
    return {"role": "model", "parts": list(parts)}


def file(mime: str, content: bytes = b"x") -> Json:
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(content).decode()}}


def link(uri: str, mime: str) -> Json:
    return {"fileData": {"fileUri": uri, "mimeType": mime}}


HI: Json = {"text": "Hi"}
PLAIN: Json = {"contents": [user(HI)]}
SCHEMA: Json = {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["a"]}
TOOLS: list[Json] = [
    {
        "functionDeclarations": [
            {"name": "look", "description": "Looks.", "parameters": SCHEMA},
            {"name": "listen", "description": "Listens.", "parameters": SCHEMA},
        ]
    }
]
CALLED: list[Json] = [user(HI), model({"functionCall": {"id": "c1", "name": "look", "args": {"a": "b"}}})]


def calling(mode: str, *allowed: str) -> Json:
    config = {"mode": mode, **({"allowedFunctionNames": list(allowed)} if allowed else {})}
    return {"toolConfig": {"functionCallingConfig": config}}


def answered(**more: Any) -> Json:
    response = {"id": "c1", "name": "look", "response": {"output": "seen"}, **more}
    return {"contents": [*CALLED, user({"functionResponse": response})], "tools": TOOLS}


def knob(title: str, **config: Any) -> Probe:
    return Probe("Knobs", title, {**PLAIN, "generationConfig": config}, PLAIN)


def top(title: str, **fields: Any) -> Probe:
    return Probe("Request", title, {**PLAIN, **fields}, PLAIN)


def shown(title: str, *parts: Json) -> Probe:
    return Probe("Content", title, {"contents": [user(HI, *parts)]}, PLAIN)


def tool(title: str, body: Json, without: Json) -> Probe:
    return Probe("Tools", title, body, without)


DECLARED: Json = {**PLAIN, "tools": TOOLS}
_JSON = "application/json"

PROBES: tuple[Probe, ...] = (
    knob("`temperature`", temperature=0.5),
    knob("`temperature` above 1", temperature=1.5),
    knob("`topP`", topP=0.5),
    knob("`topK`", topK=5),
    knob("`maxOutputTokens`", maxOutputTokens=2000),
    knob("`candidateCount` above 1", candidateCount=2),
    knob("`seed`", seed=7),
    knob("`presencePenalty`", presencePenalty=0.5),
    knob("`frequencyPenalty`", frequencyPenalty=0.5),
    knob("`stopSequences`", stopSequences=["END"]),
    knob("`stopSequences`, five of them", stopSequences=["A", "B", "C", "D", "E"]),
    knob("`responseLogprobs`", responseLogprobs=True, logprobs=2),
    knob("`responseMimeType`: JSON", responseMimeType=_JSON),
    knob("`responseSchema`", responseMimeType=_JSON, responseSchema=SCHEMA),
    knob("`responseSchema`: an array", responseMimeType=_JSON, responseSchema={"type": "ARRAY", "items": SCHEMA}),
    knob(
        "`responseSchema`: an enum",
        responseMimeType="text/x.enum",
        responseSchema={"type": "STRING", "enum": ["a", "b"]},
    ),
    knob("`responseModalities`: IMAGE", responseModalities=["TEXT", "IMAGE"]),
    Probe(
        "Knobs",
        "`mediaResolution`, with a picture",
        {"contents": [user(HI, file("image/png"))], "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}},
        {"contents": [user(HI, file("image/png"))]},
    ),
    knob("`responseFormat`", responseFormat={"text": {}}),
    knob("`speechConfig`, without sound asked for", speechConfig={"languageCode": "en-US"}),
    knob("`thinkingConfig.thinkingLevel`: HIGH", thinkingConfig={"thinkingLevel": "HIGH"}),
    knob("`thinkingConfig.thinkingBudget`", thinkingConfig={"thinkingBudget": 4096}),
    knob("`thinkingConfig.thinkingBudget`: 0", thinkingConfig={"thinkingBudget": 0}),
    knob("`thinkingConfig.includeThoughts`", thinkingConfig={"includeThoughts": True}),
    knob("`routingConfig`", routingConfig={"autoMode": {}}),
    knob("`enableEnhancedCivicAnswers`", enableEnhancedCivicAnswers=True),
    top("`systemInstruction`", systemInstruction={"parts": [{"text": "Be brief."}]}),
    top(
        "`safetySettings`",
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_LOW_AND_ABOVE"}],
    ),
    top("`safetySettings`: all off", safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]),
    top("`cachedContent`", cachedContent="cachedContents/x"),
    top("`continuationToken`", continuationToken="dG9rZW4="),
    top("`labels`", labels={"team": "search"}),
    top("`store`", store=False),
    top("`serviceTier`", serviceTier="flex"),
    top("`serviceTier`: priority", serviceTier="priority"),
    top("`modelArmorConfig`", modelArmorConfig={"promptTemplateName": "x"}),
    top("a field nobody knows", brandNew=True),
    tool("function declarations", DECLARED, PLAIN),
    tool("mode ANY", {**DECLARED, **calling("ANY")}, DECLARED),
    tool("mode ANY, one function", {**DECLARED, **calling("ANY", "look")}, DECLARED),
    tool("mode ANY, some functions", {**DECLARED, **calling("ANY", "look", "listen")}, DECLARED),
    tool("mode NONE", {**DECLARED, **calling("NONE")}, DECLARED),
    tool("mode VALIDATED", {**DECLARED, **calling("VALIDATED")}, DECLARED),
    tool("a function's result", answered(), DECLARED),
    tool("a function's result with a picture", answered(parts=[file("image/png")]), answered()),
    tool("`googleSearch`", {**PLAIN, "tools": [{"googleSearch": {}}]}, PLAIN),
    tool("`codeExecution`", {**PLAIN, "tools": [{"codeExecution": {}}]}, PLAIN),
    tool("`urlContext`", {**PLAIN, "tools": [{"urlContext": {}}]}, PLAIN),
    tool("`fileSearch`", {**PLAIN, "tools": [{"fileSearch": {}}]}, PLAIN),
    tool("`toolConfig.retrievalConfig`", {**PLAIN, "toolConfig": {"retrievalConfig": {"languageCode": "en"}}}, PLAIN),
    shown("a picture: PNG, JPEG, WebP, GIF", file("image/png")),
    shown("a picture: HEIC", file("image/heic")),
    shown("a PDF", file("application/pdf", b"%PDF-1.4")),
    shown("a text file", file("text/markdown", b"# Hi")),
    shown("sound: WAV, MP3", file("audio/wav")),
    shown("a film: MP4", file("video/mp4")),
    shown("a picture at an https address", link("https://example.com/a.png", "image/png")),
    shown("a PDF at an https address", link("https://example.com/a.pdf", "application/pdf")),
    shown("a file at `gs://`", link("gs://bucket/a.png", "image/png")),
    shown("a picture at `s3://`", link("s3://bucket/a.png", "image/png")),
    shown(
        "a file of the Gemini Files API", link("https://generativelanguage.googleapis.com/v1beta/files/x", "image/png")
    ),
    shown("a video site's address", link("https://www.youtube.com/watch?v=x", "video/mp4")),
    Probe(
        "Content", "a last turn of the model (to go on with)", {"contents": [user(HI), model({"text": "Well"})]}, PLAIN
    ),
    Probe(
        "Content",
        "code that Gemini ran, in the history",
        {"contents": [user(HI), model({"executableCode": {"language": "PYTHON", "code": "1+1"}}), user(HI)]},
        PLAIN,
    ),
    Probe(
        "Content",
        "a picture that the model made, in the history",
        {"contents": [user(HI), model(file("image/png")), user(HI)]},
        PLAIN,
    ),
)
