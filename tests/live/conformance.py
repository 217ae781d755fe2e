"""What the real google-genai SDK gets from every kind of backend: the cases, and what each kind does otherwise.

A case asks through the gateway, checks everything about the answer, and says how it came out. `yes` is what Gemini
itself would do. Any other word needs an entry in NOTES that explains it; test_conformance.py holds every cell to it.

    python -m tests.live.conformance > docs/conformance.md
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from tests.live.world import KINDS, Kind, World, embedder, model_for, trigger
from tests.upstreams.test_google_sdk import PIXEL

YES, DROPPED, REFUSED, OTHERWISE = "yes", "dropped", "refused", "otherwise"
PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
ROME = '[[tool:get_weather {"city":"Rome"}]]'
OSLO = '[[tool:get_weather {"city":"Oslo"}]]'


class City(BaseModel):
    name: str
    people: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def get_weather(city: str) -> str:
    """Current weather."""
    return f"18 C in {city}"


def get_time(zone: str) -> str:
    """Current time."""
    return f"noon in {zone}"


@dataclass
class Talk:
    """One kind, and the client that talks to it."""

    world: World
    kind: Kind

    @property
    def client(self) -> genai.Client:
        return self.world.client

    @property
    def native(self) -> bool:
        """Whether Gemini itself answers."""
        return self.kind.name in ("gemini", "vertex")

    def ask(self, contents: Any, fault: str = "", **config: Any) -> types.GenerateContentResponse:
        return self.client.models.generate_content(
            model=model_for(self.kind.name, fault), contents=contents, config=types.GenerateContentConfig(**config)
        )

    def listen(self, contents: Any, fault: str = "", **config: Any) -> Iterator[types.GenerateContentResponse]:
        return self.client.models.generate_content_stream(
            model=model_for(self.kind.name, fault), contents=contents, config=types.GenerateContentConfig(**config)
        )

    def chat(self, **config: Any) -> Any:
        return self.client.chats.create(model=self.kind.name, config=types.GenerateContentConfig(**config))


def candidate(answer: types.GenerateContentResponse) -> types.Candidate:
    assert answer.candidates, answer
    return answer.candidates[0]


def parts(answer: types.GenerateContentResponse) -> list[types.Part]:
    content = candidate(answer).content
    assert content is None or content.role == "model"
    return (content and content.parts) or []


def ended(answer: types.GenerateContentResponse, reason: str = "STOP") -> None:
    found = candidate(answer).finish_reason
    assert found and found.name == reason, found


def said(chunks: list[types.GenerateContentResponse]) -> str:
    return "".join(part.text or "" for chunk in chunks for part in parts(chunk) if not part.thought)


def dropped(answer: types.GenerateContentResponse) -> str:
    response = answer.sdk_http_response
    return (response.headers or {}).get("x-gatehouse-dropped", "") if response else ""


def well_made(chunks: list[types.GenerateContentResponse], reason: str = "STOP", *, native: bool = False) -> None:
    """What every client needs of a stream: parts in every chunk, one id, and the finish with the usage at the end.

    native: Gemini itself leaves the content out where there is nothing to say, and its answers pass as they are.
    """
    assert native or all(parts(chunk) for chunk in chunks)
    assert len({chunk.response_id for chunk in chunks}) == 1 and chunks[0].response_id
    assert [bool(candidate(chunk).finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    ended(chunks[-1], reason)
    assert chunks[-1].usage_metadata and chunks[-1].usage_metadata.total_token_count


# ── the cases ──

Case = Callable[[Talk], str]
CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Case], Case]:
    def keep(function: Case) -> Case:
        CASES[title] = function
        return function

    return keep


@case("text")
def text(talk: Talk) -> str:
    answer = talk.ask("Good morning")
    assert answer.text == "You said: Good morning."
    ended(answer)
    assert answer.response_id and answer.model_version
    return YES


@case("stream")
def stream(talk: Talk) -> str:
    chunks = list(talk.listen("[[dribble:7]] one two three"))
    assert said(chunks) == "You said: one two three."
    assert len(chunks) > 2
    well_made(chunks)
    return YES


@case("stream as a JSON array")
def array(talk: Talk) -> str:
    answer = talk.world.ask(talk.kind.name, "streamGenerateContent", {"contents": {"parts": {"text": "one two"}}})
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    chunks = [types.GenerateContentResponse.model_validate(chunk) for chunk in answer.json()]
    assert said(chunks) == "You said: one two."
    well_made(chunks)
    return YES


@case("chat history")
def history(talk: Talk) -> str:
    chat = talk.chat()
    for _ in chat.send_message_stream("First things first"):
        pass
    assert chat.send_message("And then?").text == "You said: And then?."
    assert chat.send_message("[[recall]]").text == "You began with: First things first"
    return YES


@case("system instruction")
def system(talk: Talk) -> str:
    assert talk.ask("[[system]]", system_instruction="Be brief.").text == "I was told: Be brief."
    return YES


@case("one tool, called automatically")
def one_tool(talk: Talk) -> str:
    assert talk.chat(tools=[get_weather]).send_message(f"{ROME} Weather?").text == "The tools said: 18 C in Rome"
    return YES


@case("parallel tools, called automatically")
def parallel_tools(talk: Talk) -> str:
    chat = talk.chat(tools=[get_weather, get_time])
    answer = chat.send_message(f'{ROME}{OSLO}[[tool:get_time {{"zone":"UTC"}}]] Weather?')
    assert answer.text == "The tools said: 18 C in Rome; 18 C in Oslo; noon in UTC"
    return YES


@case("tools one after the other")
def tool_after_tool(talk: Talk) -> str:
    chat = talk.chat(tools=[get_weather])
    answer = chat.send_message(f'{ROME}[[then:get_weather {{"city":"Oslo"}}]] Weather?')
    assert answer.text == "The tools said: 18 C in Rome; 18 C in Oslo"
    return YES


@case("tools in a stream")
def streamed_tools(talk: Talk) -> str:
    chunks = list(talk.listen(f"[[text:Let me see.]]{ROME}{OSLO} Weather?", **declared()))
    calls = [part.function_call for chunk in chunks for part in parts(chunk) if part.function_call]
    assert [(call.name, call.args) for call in calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_weather", {"city": "Oslo"}),
    ]
    well_made(chunks)
    heard = talk.chat(tools=[get_weather]).send_message_stream(f"{ROME}{OSLO} Weather?")
    assert "".join(chunk.text or "" for chunk in heard) == "The tools said: 18 C in Rome; 18 C in Oslo"
    return YES


def declared(mode: str = "AUTO", *allowed: str) -> dict[str, Any]:
    def function(name: str, argument: str) -> types.FunctionDeclaration:
        schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
        return types.FunctionDeclaration(name=name, description="Now.", parameters_json_schema=schema)

    calling: dict[str, Any] = {"mode": mode}
    if allowed:
        calling["allowed_function_names"] = list(allowed)
    return {
        "tools": [types.Tool(function_declarations=[function("get_weather", "city"), function("get_time", "zone")])],
        "tool_config": types.ToolConfig(function_calling_config=types.FunctionCallingConfig(**calling)),
        "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
    }


@case("a tool is forced")
def forced(talk: Talk) -> str:
    answer = talk.ask("Hello", **declared("ANY"))
    assert [call.name for call in answer.function_calls or []] == ["get_weather"], answer
    ended(answer)
    return DROPPED if "functionCallingConfig" in dropped(answer) else YES


@case("one tool of several is forced")
def forced_one(talk: Talk) -> str:
    answer = talk.ask("Hello", **declared("ANY", "get_time"))
    [call] = answer.function_calls or []
    assert call.name == "get_time" and call.id and call.args == {"zone": "sample"}
    return DROPPED if "functionCallingConfig" in dropped(answer) else YES


@case("tools are forbidden")
def forbidden(talk: Talk) -> str:
    answer = talk.ask(f"{ROME} Weather?", **declared("NONE"))
    assert not answer.function_calls and answer.text == "You said: Weather?."
    return YES


@case("structured output: object")
def an_object(talk: Talk) -> str:
    return structured(talk, City, City(name="sample", people=1))


@case("structured output: array")
def an_array(talk: Talk) -> str:
    return structured(
        talk, list[City], [City(name="sample", people=1)], obeyed='[[json:[{"name":"sample","people":1}]]]'
    )


@case("structured output: enum")
def an_enum(talk: Talk) -> str:
    return structured(talk, Colour, Colour.RED, "text/x.enum", "[[text:red]]")


def structured(
    talk: Talk,
    schema: Any,
    wanted: Any,
    mime: str = "application/json",
    obeyed: str = '[[json:{"name":"sample","people":1}]]',
) -> str:
    """obeyed: what makes a fake do as it was asked in words, which it cannot read; a real model can."""
    config = {"response_mime_type": mime, "response_schema": schema}
    prompt = f"{obeyed} A city" if talk.kind.name in IN_WORDS else "A city"
    answer = talk.ask(prompt, **config)
    assert answer.parsed == wanted, answer.text
    chunks = list(talk.listen(prompt, **config))
    assert said(chunks) == answer.text
    well_made(chunks)
    return DROPPED if "responseSchema" in dropped(answer) else YES


@case("JSON without a schema")
def json_mode(talk: Talk) -> str:
    answer = talk.ask('[[json:{"a": [1, 2]}]] Anything', response_mime_type="application/json")
    assert json.loads(answer.text or "") == {"a": [1, 2]}
    return YES


@case("thinking")
def thinking(talk: Talk) -> str:
    shown = {"thinking_config": types.ThinkingConfig(include_thoughts=True, thinking_budget=2048)}
    answer = talk.ask("[[think:I wonder why]] Hi", **shown)
    assert answer.text == "You said: Hi."
    chunks = list(talk.listen("[[think:I wonder why]] Hi", **shown))
    assert said(chunks) == "You said: Hi."
    well_made(chunks)
    thoughts = "".join(part.text or "" for part in parts(answer) if part.thought)
    streamed = "".join(part.text or "" for chunk in chunks for part in parts(chunk) if part.thought)
    assert thoughts == streamed
    if thoughts:
        assert thoughts == "I wonder why"
        hidden = talk.ask("[[think:I wonder why]] Hi", thinking_config=types.ThinkingConfig(thinking_budget=2048))
        assert not any(part.thought for part in parts(hidden))
        return DROPPED if "thinkingConfig" in dropped(answer) else YES
    assert "generationConfig.thinkingConfig" in dropped(answer)
    return DROPPED


@case("thinking in a tool loop")
def thinking_with_tools(talk: Talk) -> str:
    """Reasoning goes out with the call and comes back with its result; the fakes refuse one that was touched."""
    shown = {"thinking_config": types.ThinkingConfig(include_thoughts=True, thinking_budget=2048)}
    chat = talk.chat(tools=[get_weather], **shown)
    answer = chat.send_message(f'[[think:I wonder]]{ROME}[[then:get_weather {{"city":"Oslo"}}]] Weather?')
    assert answer.text == "The tools said: 18 C in Rome; 18 C in Oslo"
    assert chat.send_message("[[recall]]").text == "You began with: Weather?"
    return DROPPED if "thinkingConfig" in dropped(answer) else YES


@case("image")
def image(talk: Talk) -> str:
    shown = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    assert talk.ask([shown, "Look"]).text == "You said: Look. I see image/png."
    return YES


@case("PDF")
def document(talk: Talk) -> str:
    shown = types.Part.from_bytes(data=PDF, mime_type="application/pdf")
    try:
        assert talk.ask([shown, "Read"]).text == "You said: Read. I see application/pdf."
    except errors.ClientError as refusal:
        assert (refusal.code, refusal.status) == (400, "INVALID_ARGUMENT") and "inlineData" in str(refusal)
        return REFUSED
    return YES


@case("stop sequence")
def stop(talk: Talk) -> str:
    answer = talk.ask("[[text:one two three]]", stop_sequences=["two"])
    assert (answer.text or "").strip() == "one"
    ended(answer)
    chunks = list(talk.listen("[[text:one two three]]", stop_sequences=["two"]))
    assert said(chunks).strip() == "one"
    well_made(chunks)
    return YES


@case("max tokens")
def most(talk: Talk) -> str:
    answer = talk.ask("[[long:40]]", max_output_tokens=16)
    assert len((answer.text or "").split()) == 16
    ended(answer, "MAX_TOKENS")
    well_made(list(talk.listen("[[long:40]]", max_output_tokens=16)), "MAX_TOKENS")
    return YES


@case("safety: the answer is withheld")
def safety(talk: Talk) -> str:
    answer = talk.ask("[[safety]]")
    ended(answer, "SAFETY")
    chunks = list(talk.listen("[[safety]]"))
    well_made(chunks, "SAFETY", native=talk.native)
    return YES


@case("safety: the prompt is blocked")
def blocked(talk: Talk) -> str:
    try:
        answer = talk.ask("[[blocked]]")
    except errors.ClientError as refused:
        assert refused.code == failure(lambda: list(talk.listen("[[blocked]]"))).code == 400
        return REFUSED
    chunks = list(talk.listen("[[blocked]]"))
    if answer.prompt_feedback and answer.prompt_feedback.block_reason:
        assert chunks[-1].prompt_feedback and chunks[-1].prompt_feedback.block_reason
        assert not answer.candidates
        return YES
    ended(answer, "SAFETY")
    ended(chunks[-1], "SAFETY")
    return OTHERWISE


@case("the model refuses")
def refusal(talk: Talk) -> str:
    answer = talk.ask("[[refusal]]")
    chunks = list(talk.listen("[[refusal]]"))
    assert answer.text and said(chunks) == answer.text
    ended(answer, "SAFETY")
    well_made(chunks, "SAFETY")
    return YES


@case("empty answer")
def empty(talk: Talk) -> str:
    answer = talk.ask("[[empty]]")
    assert not answer.text
    ended(answer)
    chunks = list(talk.listen("[[empty]]"))
    assert said(chunks) == ""
    well_made(chunks, native=talk.native)
    return YES


@case("usage")
def usage(talk: Talk) -> str:
    prompt = "[[cached:2]] [[think:so so]] a b c d"
    vendor = talk.world.vendor(talk.kind)
    whole = talk.ask(prompt).usage_metadata
    pieces = list(talk.listen(prompt))[-1].usage_metadata
    outcome = YES
    for told, billed in zip((whole, pieces), vendor.billed, strict=True):
        assert told is not None and billed.complete
        used = billed.usage
        assert (told.prompt_token_count, told.candidates_token_count) == (used.input, used.output)
        assert (told.thoughts_token_count or 0) == used.thoughts
        assert told.total_token_count == used.total
        if (told.cached_content_token_count or 0) != used.cached:
            assert not told.cached_content_token_count
            outcome = OTHERWISE
    return outcome


# Fault: code, status word.
ERRORS: dict[str, tuple[int, str]] = {
    "400": (400, "INVALID_ARGUMENT"),
    "context": (400, "INVALID_ARGUMENT"),
    "401": (503, "UNAVAILABLE"),
    "403": (503, "UNAVAILABLE"),
    "404": (404, "NOT_FOUND"),
    "429": (429, "RESOURCE_EXHAUSTED"),
    "quota": (429, "RESOURCE_EXHAUSTED"),
    "500": (500, "INTERNAL"),
    "503": (503, "UNAVAILABLE"),
    "html": (503, "UNAVAILABLE"),
    "garbage": (500, "INTERNAL"),
    "cut": (503, "UNAVAILABLE"),
}


@case("errors")
def every_error(talk: Talk) -> str:
    found = failures({fault: partial(talk.ask, trigger(fault), fault) for fault in ERRORS})
    for fault, (code, status) in ERRORS.items():
        error = found[fault]
        assert (error.code, error.status) == (code, status), (fault, error)
        assert isinstance(error, errors.ClientError if code < 500 else errors.ServerError)
    return YES


def failure(call: Callable[[], Any]) -> errors.APIError:
    try:
        answer = call()
    except errors.APIError as error:
        return error
    raise AssertionError(f"it did not fail: {answer}")


def failures(calls: dict[str, Callable[[], Any]]) -> dict[str, errors.APIError]:
    """Of all of them at once: each has a model of its own, and what is tried again waits in between."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return dict(zip(calls, threads.map(failure, calls.values()), strict=True))


@case("error before the first chunk")
def error_at_once(talk: Talk) -> str:
    asked = ("400", "500", "503", "html", "cut")
    found = failures({fault: lambda fault=fault: list(talk.listen(trigger(fault), fault)) for fault in asked})
    for fault, error in found.items():
        assert (error.code, error.status) == ERRORS[fault], (fault, error)
        assert error.response.status_code == error.code  # type: ignore[union-attr]  # httpx2's, as the SDK keeps it
    return YES


@case("the stream is cut in the middle")
def cut(talk: Talk) -> str:
    return broken(talk, "midcut", (503, "UNAVAILABLE"))


@case("an error in the middle of the stream")
def broken_off(talk: Talk) -> str:
    return broken(talk, "midbreak", (500, "INTERNAL"), (503, "UNAVAILABLE"))


def broken(talk: Talk, fault: str, *accepted: tuple[int, str]) -> str:
    heard: list[types.GenerateContentResponse] = []
    talk.world.well(model_for(talk.kind.name, fault))
    try:
        for chunk in talk.listen(trigger(fault), fault):
            heard.append(chunk)
    except errors.APIError as error:
        assert (error.code, error.status) in accepted, error
    else:
        raise AssertionError("a broken stream looked whole")
    assert said(heard).split() == ["word0", "word1"]
    assert not any(candidate(chunk).finish_reason for chunk in heard)
    return YES


@case("count tokens")
def counting(talk: Talk) -> str:
    assert (talk.client.models.count_tokens(model=talk.kind.name, contents="one two three").total_tokens or 0) >= 3
    return YES


@case("embeddings")
def embeddings(talk: Talk) -> str:
    if not talk.kind.embeds:
        error = failure(lambda: talk.client.models.embed_content(model=talk.kind.name, contents="one"))
        assert error.code in (404, 501, 503), error
        return REFUSED
    found = talk.client.models.embed_content(model=embedder(talk.kind.name), contents=["one", "two"]).embeddings
    assert found and len(found) == 2 and found[0].values != found[1].values
    return YES


# ── what comes out otherwise, and why ──

# Kinds that have no field for a schema.
IN_WORDS = ("bedrock-nova",)
NOTES: dict[tuple[str, str], tuple[str, str]] = {}


def note(outcome: str, sentence: str, *cells: tuple[str, str]) -> None:
    for cell in cells:
        NOTES[cell] = (outcome, sentence)


SCHEMAS = ("structured output: object", "structured output: array", "structured output: enum")
THINKING = ("thinking", "thinking in a tool loop")
note(
    DROPPED,
    "This model has no field for a schema: it is told the schema in words, and what it writes is checked by nobody.",
    *((title, "bedrock-nova") for title in SCHEMAS),
)
note(
    DROPPED,
    "This model does not think (or cannot be told to): `generationConfig.thinkingConfig` is left out.",
    *((title, kind) for title in THINKING for kind in ("openai", "azure-chat", "bedrock-nova")),
)
note(
    DROPPED,
    "The model thinks as hard as it is asked to, but Chat Completions never tells what: "
    "`thinkingConfig.includeThoughts` is left out. The Responses API tells it.",
    *((title, "openai-thinking") for title in THINKING),
)
note(
    DROPPED,
    "The model thinks as hard as it is asked to; this endpoint tells its thoughts only to those who give up saying how "
    "hard: `thinkingConfig.includeThoughts` is left out. The native endpoint does both.",
    *((title, "gemini_openai") for title in THINKING),
)
note(
    DROPPED,
    "Thoughts that the server tells (`reasoning_content`) are shown; how hard to think cannot be told to a server that "
    "nothing is known of: set `efforts` among the deployment's capabilities if it can.",
    *((title, "compatible") for title in THINKING),
)
note(
    REFUSED,
    "This endpoint takes no files: a 400 that names the part.",
    ("PDF", "gemini_openai"), ("PDF", "azure-chat"),
)  # fmt: skip
note(
    OTHERWISE,
    "This vendor judges the answer, not the prompt: instead of a `promptFeedback` there is a candidate that ends with "
    "SAFETY.",
    *(("safety: the prompt is blocked", kind) for kind in (
        "anthropic", "vertex-anthropic", "bedrock-invoke", "bedrock-converse", "bedrock-nova")),
)  # fmt: skip
note(
    REFUSED,
    "This server has no word of its own for a blocked prompt: its 400 and its message are handed on.",
    ("safety: the prompt is blocked", "compatible"), ("safety: the prompt is blocked", "gemini_openai"),
)  # fmt: skip
note(OTHERWISE, "This endpoint does not tell how much of the prompt came from its cache.", ("usage", "gemini_openai"))
note(
    REFUSED,
    "This API has no embeddings: 501 UNIMPLEMENTED, unless another deployment of the model can.",
    *(("embeddings", kind.name) for kind in KINDS if not kind.embeds),
)


def outcome(title: str, kind: Kind) -> str:
    return NOTES.get((title, kind.name), (YES, ""))[0]


# ── the page ──


def page() -> str:
    """docs/conformance.md. Every cell of it is held by a test."""
    sentences = list(dict.fromkeys(sentence for _, sentence in NOTES.values()))
    lines = [
        "# What a Gemini client gets from every backend",
        "",
        "Generated by `python -m tests.live.conformance > docs/conformance.md`. Do not edit it.",
        "",
        "The official google-genai SDK asks through a running gateway; faithful copies of the vendors answer on loopback.",
        "Every cell is a test in `tests/live/test_conformance.py`: it fails when an answer gets worse, and when it gets",
        "better than is said here. `yes` means: as Gemini itself would answer, unary and (where it makes sense) streamed.",
        "",
        "- `dropped`: the request is answered without that field, which is named in `x-gatehouse-dropped` and in the",
        "  record. A strict key or model gets a 400 that names the field instead.",
        "- `refused`: an error in Google's form that says what cannot be taken.",
        "- `otherwise`: the vendor has no such thing; the note says what the client gets.",
        "",
        "| | " + " | ".join(kind.title for kind in KINDS) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for title in CASES:
        cells = []
        for kind in KINDS:
            word, sentence = NOTES.get((title, kind.name), (YES, ""))
            cells.append(f"{word} [{sentences.index(sentence) + 1}]" if sentence else word)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", "## Notes", ""]
    lines += [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    lines += [
        "",
        "## Models",
        "",
        "| column | kind of connection | model | options | capabilities |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        lines.append(
            f"| {kind.title} | `{kind.kind}` | `{kind.model}` | {_listed(kind.options)} | {_listed(kind.capabilities)} |"
        )
    return "\n".join(lines) + "\n"


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items()) or "–"


if __name__ == "__main__":
    print(page(), end="")
