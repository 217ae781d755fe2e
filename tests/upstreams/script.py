"""What an upstream answers, decided by the prompt. The vendors' files only put it into their own words.

Triggers, anywhere in the last user message that has text:

    [[text:Hello]]                 this text instead of an echo
    [[tool:NAME {"a":1}]]          call a declared tool (several: parallel); not again once results are there
    [[then:NAME {"a":1}]]          call it in the next round, after the first results (several: one a round)
    [[rawtool:NAME text]]          call it with these characters as arguments, JSON or not
    [[think:I wonder]]             reasoning before the answer
    [[json:{"a":1}]]               this JSON as text (without it, a structured answer is made from the schema)
    [[long:200]]                   200 pieces of text
    [[system]]  [[recall]]         repeat the system text; the first user message of the history
    [[cached:12]]                  so many prompt tokens came from the cache
    [[max]] [[safety]] [[refusal]] [[empty]] [[blocked]]      how it ends
    [[delay:0.2]] [[pace:0.01]]    seconds before the first byte, between pieces
    [[error:429 retry-after=7]]    refuse; after the status a flavour: context, quota, html, garbage, nothing
    [[cut]] [[cut:after=2]]        drop the connection, before the first byte or after two pieces
    [[midstream-error:after=2]]    an error in the vendor's words inside the stream (unary: a 500)
    [[hang]]                       never answer
    [[dribble:7]]                  the stream in network writes of 7 bytes

A token is a word. No clock and no chance decides anything, so the same request always gets the same answer.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

End = Literal["stop", "stop_sequence", "tools", "max", "safety", "refusal", "empty"]
Step = tuple[Literal["thought", "text", "call"], Any]


class Cut(Exception):
    """Drop the connection. The server closes it without ending the answer."""


class Broken(Exception):
    """The answer breaks in the middle; the vendor says so inside the stream."""


class Fault(Exception):
    """Fail as asked: status, seconds to wait, and a flavour ("" for the vendor's usual words)."""

    def __init__(self, status: int, flavour: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{status} {flavour}")
        self.status, self.flavour, self.retry_after = status, flavour, retry_after
        self.message = MESSAGES.get(flavour) or f"The script asked for {status}."


MESSAGES = {"context": "The prompt is too long for this model.", "quota": "The account has no quota left."}


class Refusal(Exception):
    """The request is not acceptable. field: what is wrong, as a path; why: "unknown", "missing", "invalid" or ""."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "",
        field: str = "",
        why: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.field, self.why = message, status, code, field, why
        self.retry_after = retry_after


@dataclass(frozen=True)
class Call:
    """A tool call. arguments: the characters the model wrote, JSON unless the script says otherwise."""

    name: str
    arguments: str

    @property
    def args(self) -> dict[str, Any]:
        """As an object; an empty one when the model wrote something else."""
        try:
            value = json.loads(self.arguments)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def well_formed(self) -> bool:
        return bool(self.args) or "".join(self.arguments.split()) == "{}"

    @property
    def id(self) -> str:
        """22 characters, the same for the same call; vendors put their prefix before it."""
        return hashlib.sha256(f"{self.name}{self.arguments}".encode()).hexdigest()[:22]


@dataclass(frozen=True)
class Media:
    mime: str
    data: str  # base64 or a URL


@dataclass
class Ask:
    """A request in the words all vendors share. `users`: the text of every user message, oldest first."""

    model: str
    users: list[str] = field(default_factory=list)
    system: str = ""
    results: list[str] = field(default_factory=list)  # what tools said since the last user text
    rounds: int = 0  # how often they did
    media: list[Media] = field(default_factory=list)  # in the last user message
    tools: dict[str, Any] = field(default_factory=dict)  # name: JSON schema of its arguments
    choice: str = "auto"  # auto, none, any, or the name of a tool
    parallel: bool = True
    blocks: bool = True  # a prompt can be blocked before generation; otherwise the answer ends by the safety stop
    thinks: bool = True  # reasoning is on, so that `think` has an effect
    schema: Any = None  # of a structured answer
    json_mode: bool = False
    stop: list[str] = field(default_factory=list)
    max_tokens: int | None = None
    texts: list[str] = field(default_factory=list)  # everything the model reads, for counting
    _role: str = ""
    _texts_here: int = 0

    @property
    def prompt(self) -> str:
        return self.users[-1] if self.users else ""

    def turn(self, role: str) -> None:
        """A message of this role begins; two of the same role in a row are one."""
        if role != self._role:
            self._role, self._texts_here = role, 0
            if role == "user":
                self.media = []

    def hear(self, text: str) -> None:
        """A text of the user. What tools said before it is settled by it."""
        if self._texts_here:
            self.users[-1] += f"\n{text}"
        else:
            self.users.append(text)
        self._texts_here += 1
        self.results, self.rounds = [], 0
        self.texts.append(text)

    def learn(self, results: list[str]) -> None:
        """What tools answered to one turn of calls."""
        if results:
            self.results += [_plainly(result) for result in results]
            self.rounds += 1
            self.texts += results

    @property
    def prompt_tokens(self) -> int:
        read = sum(len(text.split()) for text in (self.system, *self.texts))
        return max(1, read + 10 * len(self.media) + len(self.tools) * 5)


@dataclass
class Usage:
    input: int = 0
    cached: int = 0
    output: int = 0  # visible text and calls
    thoughts: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output + self.thoughts


@dataclass(frozen=True)
class Billed:
    """What the vendor charges for one call, told in Gemini's classes: input has cached in it, output has no thoughts."""

    model: str
    usage: Usage
    complete: bool


@dataclass(frozen=True)
class Plan:
    thoughts: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    end: End = "stop"
    stopped_at: str = ""
    blocked: bool = False
    cached: int = 0
    delay: float = 0
    pace: float = 0
    cut_after: int | None = None
    break_after: int | None = None
    dribble: int = 0
    fault: Fault | None = None

    @property
    def whole_text(self) -> str:
        return "".join(self.text)

    @property
    def whole_thought(self) -> str:
        return "".join(self.thoughts)


class Run:
    """One call being answered: gives its steps at the pace of the script, and bills what it gave.

    The bill is written however the run ends, also when the caller leaves in the middle.
    """

    def __init__(self, ask: Ask, billed: list[Billed]) -> None:
        self.ask = ask
        self.plan = plan(ask)
        self.usage = Usage(input=ask.prompt_tokens, cached=min(self.plan.cached, ask.prompt_tokens))
        self._billed = billed
        if self.plan.fault:
            raise self.plan.fault

    async def steps(self) -> AsyncIterator[Step]:
        """What the answer is made of, in order. Raises Cut and Broken where the script says."""
        complete = False
        try:
            await asyncio.sleep(self.plan.delay)
            for given, step in enumerate(self._all()):
                self._maybe_fail(given)
                if given and self.plan.pace:
                    await asyncio.sleep(self.plan.pace)
                self._count(step)
                yield step
            self._maybe_fail(None)
            complete = True
        finally:
            self._billed.append(Billed(self.ask.model, self.usage, complete))

    async def whole(self) -> Plan:
        """The answer at once, for a unary call. Broken is the vendor's own 500."""
        try:
            async for _ in self.steps():
                pass
        except Broken:
            raise Fault(500) from None
        return self.plan

    def _all(self) -> Iterable[Step]:
        yield from (("thought", piece) for piece in self.plan.thoughts)
        yield from (("text", piece) for piece in self.plan.text)
        yield from (("call", call) for call in self.plan.calls)

    def _maybe_fail(self, given: int | None) -> None:
        """`given` is None at the end: a failure that was asked for later than the answer is long comes there."""
        for after, failure in ((self.plan.cut_after, Cut), (self.plan.break_after, Broken)):
            if after is not None and (given is None or given >= after):
                raise failure

    def _count(self, step: Step) -> None:
        kind, value = step
        if kind == "thought":
            self.usage.thoughts += 1
        elif kind == "text":
            self.usage.output += 1
        else:
            self.usage.output += len(words(value.arguments)) + 1


# ── reading the script ──

_TRIGGER = re.compile(r"\[\[([a-z-]+)(?::\s*|(?=\]\]))")


def triggers(prompt: str) -> tuple[list[tuple[str, str]], str]:
    """The triggers in order, and the prompt without them. A JSON argument may hold brackets of its own."""
    found: list[tuple[str, str]] = []
    rest, place = "", 0
    while match := _TRIGGER.search(prompt, place):
        end = _end_of(prompt, match.end())
        if end < 0:
            break
        rest += prompt[place : match.start()]
        found.append((match.group(1), prompt[match.end() : end].strip()))
        place = end + 2
    return found, " ".join((rest + prompt[place:]).split())


def _end_of(prompt: str, start: int) -> int:
    """Where `]]` closes a trigger, brackets inside a JSON value left out of account."""
    end = prompt.find("]]", start)
    opening = re.compile(r"[\[{]").search(prompt, start, end if end >= 0 else len(prompt))
    if opening:
        try:
            _, after = json.JSONDecoder().raw_decode(prompt, opening.start())
        except ValueError:
            return end
        return prompt.find("]]", after)
    return end


def fault_in(text: str) -> Fault:
    """`429 retry-after=7`, `502 html`, `cut`, `hang`: what `[[error:...]]` and Upstream.faults say."""
    status, retry_after, flavour = 500, None, ""
    for word in text.split():
        if word.isdigit():
            status = int(word)
        elif word.startswith("retry-after="):
            retry_after = float(word.partition("=")[2])
        else:
            flavour = word
    return Fault(status, flavour, retry_after)


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+\s*?(?=\s|$)|\s+$", text))


def plan(ask: Ask) -> Plan:
    found, said = triggers(ask.prompt)
    by_name: dict[str, list[str]] = {}
    for name, value in found:
        by_name.setdefault(name, []).append(value)

    if "blocked" in by_name and not ask.blocks:
        by_name["safety"] = by_name.pop("blocked")

    def first(name: str, default: str = "") -> str:
        return by_name.get(name, [default])[0]

    def after(name: str, default: int) -> int | None:
        return int(first(name).partition("=")[2] or default) if name in by_name else None

    fault = None
    if "error" in by_name:
        fault = fault_in(first("error"))
    elif "hang" in by_name:
        fault = Fault(200, "hang")
    elif first("cut", "later") == "":
        fault = Fault(200, "cut")

    calls = _calls(ask, by_name)
    text, end, stopped_at = _text(ask, by_name, said, calls), _end(by_name, calls), ""
    for sequence in ask.stop:
        if sequence in text:
            text, end, stopped_at, calls = text.partition(sequence)[0], "stop_sequence", sequence, ()
    pieces = words(text)
    if ask.max_tokens is not None and len(pieces) > ask.max_tokens:
        pieces, end, calls = pieces[: ask.max_tokens], "max", ()
    return Plan(
        thoughts=words(first("think")) if ask.thinks else (),
        text=pieces,
        calls=calls,
        end=end,
        stopped_at=stopped_at,
        blocked="blocked" in by_name,
        cached=int(first("cached", "0")),
        delay=float(first("delay", "0")),
        pace=float(first("pace", "0")),
        cut_after=after("cut", 1),
        break_after=after("midstream-error", 1),
        dribble=int(first("dribble", "0")),
        fault=fault,
    )


def _calls(ask: Ask, by_name: dict[str, list[str]]) -> tuple[Call, ...]:
    if not ask.tools or ask.choice == "none":
        return ()
    if ask.rounds == 0:
        asked = [*by_name.get("tool", []), *by_name.get("rawtool", [])]
    else:
        asked = by_name.get("then", [])[ask.rounds - 1 : ask.rounds]
    calls = []
    for one in asked:
        name, _, arguments = one.partition(" ")
        if name in ask.tools:
            calls.append(Call(name, arguments.strip() or "{}"))
    forced = ask.choice not in ("auto", "none")
    if forced and ask.choice != "any":
        calls = [call for call in calls if call.name == ask.choice]
    if forced and not calls:
        name = next(iter(ask.tools)) if ask.choice == "any" else ask.choice
        calls = [Call(name, json.dumps(sample(ask.tools[name])))]
    return tuple(calls if ask.parallel else calls[:1])


def _text(ask: Ask, by_name: dict[str, list[str]], said: str, calls: tuple[Call, ...]) -> str:
    if "empty" in by_name or "safety" in by_name:
        return ""
    if "refusal" in by_name:
        return "I cannot help with that."
    if "text" in by_name:
        return by_name["text"][0]
    if calls:
        return ""
    if "json" in by_name:
        return by_name["json"][0]
    if "long" in by_name:
        return " ".join(f"word{number}" for number in range(int(by_name["long"][0] or 50)))
    if "system" in by_name:
        return f"I was told: {ask.system}"
    if "recall" in by_name:
        return f"You began with: {triggers(ask.users[0])[1]}"
    if ask.schema is not None:
        return json.dumps(sample(ask.schema))
    if ask.json_mode:
        return json.dumps({"said": said})
    if ask.results:
        return f"The tools said: {'; '.join(ask.results)}"
    seen = "".join(f" I see {media.mime}." for media in ask.media)
    return f"You said: {said}.{seen}"


def _end(by_name: dict[str, list[str]], calls: tuple[Call, ...]) -> End:
    for name in ("max", "safety", "refusal", "empty"):
        if name in by_name:
            return name
    return "tools" if calls else "stop"


# ── values every vendor needs ──


def sample(schema: Any, root: Any = None) -> Any:
    """The plainest value that a schema allows (JSON Schema, or Gemini's with its upper-case types)."""
    root = root or schema
    if not isinstance(schema, dict) or not schema:
        return {}
    if "$ref" in schema:
        node = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            node = node[name]
        return sample(node, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "any_of", "oneOf", "allOf"):
        if schema.get(key):
            return sample(schema[key][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        needed = schema.get("required", list(schema.get("properties", {})))
        return {name: sample(part, root) for name, part in schema.get("properties", {}).items() if name in needed}
    if kind == "array":
        count = max(1, int(schema.get("minItems") or schema.get("min_items") or 1))
        return [sample(schema.get("items", {"type": "string"}), root) for _ in range(count)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, "sample")


def _plainly(result: str) -> str:
    """What a function returned, out of the `{"result": ...}` that clients of Gemini put around it."""
    with suppress(ValueError):
        match json.loads(result):
            case {"result": str(value), **rest} | {"output": str(value), **rest} if not rest:
                return value
    return result


def vector(text: str, dimensions: int = 8) -> list[float]:
    """An embedding: the same for the same text, different for another."""
    digest = hashlib.sha256(text.encode()).digest()
    return [round(digest[place % len(digest)] / 255 - 0.5, 6) for place in range(dimensions)]


def decoded(data: Any, where: str, *, url_safe: bool = False) -> bytes:
    """Base64 as strict as the vendors read it. Raises Refusal."""
    try:
        if not isinstance(data, str) or not data:
            raise ValueError
        if url_safe:
            data = data.replace("-", "+").replace("_", "/")
            data += "=" * (-len(data) % 4)
        return base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error):
        raise Refusal("Base64 decoding failed.", field=where, why="invalid") from None
