"""A conversation as turns that strictly alternate, with every function result matched to its call.

`read` turns Gemini's contents into `Turn`s of small items, for every backend that is not Gemini:
    roles normalised; neighbours of one role merged; results first, in the order of their calls; thought summaries
    left out (they are a display copy); ids made where the client sent none: the same history always gives the same
    ids, or the vendor's prompt cache never hits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from gemini_api.errors import InvalidArgument
from gemini_api.translators import media
from gemini_api.translators.base import Json
from gemini_api.translators.losses import Losses
from gemini_api.translators.media import Media
from lib import json

MISMATCH = (
    "Please ensure that the number of function response parts is equal to the number of function call parts "
    "of the function call turn."
)
UNASKED = "Please ensure that function response turn comes immediately after a function call turn."
_USABLE_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(slots=True)
class Text:
    """Text of the user or the model. Pieces of one model answer come joined."""

    text: str


@dataclass(slots=True)
class Call:
    """A function call of the model. id: fit for every vendor; name: the client's; raw: the client's id or "";
    signature: the part's thoughtSignature, as it came."""

    id: str
    name: str
    args: Json
    raw: str = ""
    signature: str = ""


@dataclass(slots=True)
class Result:
    """The answer to one call. id and name are the call's; response: the client's object; media: its own parts."""

    id: str
    name: str
    response: Json
    media: list[Media] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return "error" in self.response

    def text(self, *, whole_error: bool = False) -> str:
        """What the vendor is told. whole_error: a failure as the whole object, for vendors without an error flag."""
        response = self.response
        if len(response) == 1 and "output" in response:
            return _text_of(response["output"])
        if "error" in response and not whole_error:
            return _text_of(response["error"])
        return json.dumps(response).decode()


@dataclass(slots=True)
class Opaque:
    """A vendor's own reasoning blocks, opened from the signature of the part that follows."""

    blocks: list[Json]


Item = Text | Media | Call | Opaque


@dataclass(slots=True)
class Turn:
    """One side's turn. Users have results (first) and texts or media; models have texts, calls and opaque blocks."""

    role: str
    results: list[Result] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)

    @property
    def calls(self) -> list[Call]:
        return [item for item in self.items if type(item) is Call]


def read(
    body: Json,
    losses: Losses,
    *,
    opaque: Callable[[str], list[Json]] | None = None,
    drop_blank: bool = False,
    short_ids: bool = False,
) -> list[Turn]:
    """The turns of a normalised request.

    opaque: opens a signature into the vendor's blocks, or [] (`signatures.blocks_for`).
    drop_blank: the vendor refuses white space alone: such texts go, and a user turn left empty becomes ".".
    short_ids: ids of nine hex digits, for Mistral's models.
    Raises InvalidArgument when calls and results do not match, or a part stands in the wrong turn.
    """
    reader = _Reader(losses, opaque, drop_blank)
    for index, content in enumerate(body["contents"]):
        reader.content(content, index)
    turns = reader.turns
    if reader.has_functions:
        _name_calls(turns, short_ids)
        _match(turns, reader.responses)
    for turn in turns:
        if not turn.items and not turn.results:
            turn.items.append(Text("." if drop_blank else ""))
    return turns


def lead_with_user(turns: list[Turn], losses: Losses) -> None:
    """Put a user's "." in front of a history that starts with the model (vendors that demand it). A loss."""
    if turns and turns[0].role == "model":
        losses.drop("contents")
        turns.insert(0, Turn("user", items=[Text(".")]))


def system_text(body: Json, losses: Losses) -> str:
    """The system instruction as one text; "" when there is none. Refuses parts that are not text."""
    instruction = body.get("systemInstruction")
    if not instruction:
        return ""
    texts = []
    for index, part in enumerate(instruction.get("parts", ())):
        if "text" not in part:
            losses.refuse(f"systemInstruction.parts[{index}]", "A system instruction can only be text here.")
        if part["text"] and not part.get("thought"):
            texts.append(part["text"])
    return "\n\n".join(texts)


class _Reader:
    """Collects turns while walking the contents. Responses wait for the calls to have their ids."""

    def __init__(self, losses: Losses, opaque: Callable[[str], list[Json]] | None, drop_blank: bool) -> None:
        self.turns: list[Turn] = []
        self.responses: dict[int, list[tuple[Json, str]]] = {}  # turn number -> (functionResponse, path)
        self.has_functions = False
        self._losses = losses
        self._opaque = opaque
        self._drop_blank = drop_blank

    def content(self, content: Json, index: int) -> None:
        role = content["role"]
        if role == "user":
            self._turn("user")
        for place, part in enumerate(content["parts"]):
            text = part.get("text")
            if text is not None:
                self._text(role, text, part)
            else:
                self._part(role, part, f"contents[{index}].parts[{place}]")

    def _turn(self, role: str) -> Turn:
        """The turn that is being said; a model's turn only begins when there is something in it."""
        if not self.turns or self.turns[-1].role != role:
            self.turns.append(Turn(role))
        return self.turns[-1]

    def _text(self, role: str, text: str, part: Json) -> None:
        if part.get("thought"):
            return
        opened = role == "model" and self._open(part)
        if not text or (self._drop_blank and not text.strip()):
            return
        items = self._turn(role).items
        if role == "model" and not opened and items and type(last := items[-1]) is Text:
            last.text += text  # clients replay a stream chunk by chunk
            return
        items.append(Text(text))

    def _open(self, part: Json) -> bool:
        """Puts the vendor's blocks in front of the part whose signature holds them."""
        if self._opaque is None or "thoughtSignature" not in part:
            return False
        blocks = self._opaque(part["thoughtSignature"])
        if blocks:
            self._turn("model").items.append(Opaque(blocks))
        return bool(blocks)

    def _part(self, role: str, part: Json, where: str) -> None:
        if role == "model" and "thoughtSignature" in part:
            self._open(part)
        match part:
            case {"functionCall": call}:
                if role != "model":
                    raise InvalidArgument("A function call can only stand in a content of the model.", field=where)
                self.has_functions = True
                given, signature = call.get("id", ""), part.get("thoughtSignature", "")
                self._turn("model").items.append(Call("", call["name"], call.get("args", {}), given, signature))
            case {"functionResponse": response}:
                if role != "user":
                    raise InvalidArgument(UNASKED, field=where)
                if response.get("willContinue"):
                    self._losses.refuse(f"{where}.functionResponse.willContinue")
                self.has_functions = True
                self._turn("user")
                self.responses.setdefault(len(self.turns) - 1, []).append((response, f"{where}.functionResponse"))
            case {"inlineData": _} | {"fileData": _}:
                if part.get("thought"):
                    return
                self._media(role, part, where)
            case {"executableCode": code}:
                self._fenced(role, code.get("code", ""), str(code.get("language", "python")).lower())
            case {"codeExecutionResult": result}:
                self._fenced(role, result.get("output", ""), "")
            case {"toolCall": _} | {"toolResponse": _}:
                self._losses.drop("contents.parts.toolCall" if "toolCall" in part else "contents.parts.toolResponse")

    def _media(self, role: str, part: Json, where: str) -> None:
        if "videoMetadata" in part:
            self._losses.drop("contents.parts.videoMetadata")
        item = media.read(part, where, self._losses)
        if role == "user":
            self._turn("user").items.append(item)
            return
        # No vendor takes a picture in an answer's place.
        self._losses.drop("contents.parts.inlineData")
        self._turn("model").items.append(Text(f"[{item.kind or 'file'}]"))

    def _fenced(self, role: str, code: str, language: str) -> None:
        self._losses.drop("contents.parts.executableCode" if language else "contents.parts.codeExecutionResult")
        self._text(role, f"\n```{language}\n{code}\n```\n", {})


def _name_calls(turns: list[Turn], short: bool) -> None:
    """Give every call of the history an id that every vendor takes, unique, and the same each time."""
    used: set[str] = set()
    ordinal = 0
    for turn in turns:
        if turn.role != "model":
            continue
        for call in turn.calls:
            raw = call.raw
            if raw and raw not in used and _USABLE_ID.fullmatch(raw):
                call.id = raw
            elif raw:
                call.id = f"call_{_digest(f'{raw}#{ordinal}'.encode('utf-8', 'surrogatepass'))[:24]}"
            else:
                text = f"{ordinal}|{call.name}|".encode("utf-8", "surrogatepass") + json.canonical(call.args)
                call.id = f"call_{_digest(text)[:24]}"
            used.add(call.id)
            ordinal += 1
            if short:
                call.id = _digest(call.id.encode())[:9]


def _match(turns: list[Turn], responses: dict[int, list[tuple[Json, str]]]) -> None:
    """Put each response beside its call. Every call is answered once, in the turn that follows it, or it is a 400."""
    for number, turn in enumerate(turns):
        if turn.role == "model":
            if turn.calls and number + 1 not in responses:
                raise InvalidArgument(MISMATCH, field="contents")
            continue
        given = responses.get(number)
        if not given:
            continue
        calls = turns[number - 1].calls if number else []
        if not calls:
            raise InvalidArgument(UNASKED, field=given[0][1])
        if len(given) != len(calls):
            raise InvalidArgument(MISMATCH, field=given[0][1])
        answers: dict[int, Result] = {}
        for response, where in given:
            place = _place(response, calls, answers)
            if place is None:
                raise InvalidArgument(MISMATCH, field=where)
            call = calls[place]
            answers[place] = Result(call.id, call.name, response.get("response", {}), _media_of(response, where))
        turn.results = [answers[place] for place in range(len(calls))]


def _place(response: Json, calls: list[Call], answers: dict[int, Result]) -> int | None:
    """Which open call a response answers: by id, by the id with the name in front, by name and order, or what is left."""
    given, name = response.get("id", ""), response.get("name", "")
    left = [place for place in range(len(calls)) if place not in answers]
    if given:
        for place in left:
            if calls[place].raw == given:
                return place
        for place in left:
            call = calls[place]
            prefix = f"{call.name}__"
            if call.raw and (prefix + call.raw == given or call.raw == given.removeprefix(prefix)):
                return place
    for place in left:
        if calls[place].name == name and (not given or not calls[place].raw):
            return place
    return left[0] if len(left) == 1 else None


def _media_of(response: Json, where: str) -> list[Media]:
    return [media.read(part, f"{where}.parts[{place}]") for place, part in enumerate(response.get("parts", ()))]


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value).decode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
