"""OpenAI's Responses API: typed input items, a stream of typed events, reasoning that only its maker can read back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.upstreams import strict
from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.families import openai_family
from tests.upstreams.script import Ask, Broken, Call, Media, Plan, Refusal, Run, Usage

FIELDS = (
    "model input instructions stream stream_options store include tools tool_choice parallel_tool_calls temperature top_p"
    " max_output_tokens max_tool_calls reasoning text truncation metadata user safety_identifier prompt_cache_key"
    " service_tier top_logprobs previous_response_id background prompt conversation"
)
NAME = r"[a-zA-Z0-9_-]{1,64}"
SEAL = "gAAAA-"  # encrypted reasoning that this account can read begins with it


class OpenAIResponses(Upstream):
    """`/v1/responses` and `/v1/responses/input_tokens`, with a bearer key."""

    api_key = "upstream-key"

    async def respond(self, request: Request) -> Reply | Stream:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise Refusal("Incorrect API key provided.", status=401, code="invalid_api_key")
        if not isinstance(request.json, dict):
            raise Refusal("We could not parse the JSON body of your request.")
        match request.method, request.path:
            case "POST", "/v1/responses":
                return await self.create(request.json)
            case "POST", "/v1/responses/input_tokens":
                return Reply(
                    body={"object": "response.input_tokens", "input_tokens": self.asked(request.json).prompt_tokens}
                )
        raise Refusal(f"Invalid URL ({request.method} {request.path})", status=404)

    def refuse(self, refusal: Refusal) -> Reply:
        status, headers = refusal.status, {"x-request-id": "req_upstream"}
        if refusal.retry_after is not None:
            headers["retry-after"] = f"{refusal.retry_after:g}"
        by_why = {"unknown": "unknown_parameter", "missing": "missing_required_parameter", "invalid": "invalid_value"}
        known = {"context": "context_length_exceeded", "quota": "insufficient_quota"}
        default = {429: "rate_limit_exceeded", 404: "model_not_found"}.get(status)
        code = known.get(refusal.code) or refusal.code or by_why.get(refusal.why) or default
        message = f"Unknown parameter: '{refusal.field}'." if refusal.why == "unknown" else refusal.message
        kind = (
            "server_error"
            if status >= 500
            else "insufficient_quota"
            if refusal.code == "quota"
            else "invalid_request_error"
        )
        return Reply(
            status, {"error": {"message": message, "type": kind, "param": refusal.field or None, "code": code}}, headers
        )

    # ── reading ──

    def asked(self, body: dict[str, Any]) -> Ask:
        strict.fields(body, "", FIELDS, "model input")
        ask = Ask(strict.text(body["model"], "model", empty=False), system=body.get("instructions") or "")
        for name, low, high in (
            ("temperature", 0, 2),
            ("top_p", 0, 1),
            ("max_output_tokens", 16, 1e9),
            ("top_logprobs", 0, 20),
        ):
            if body.get(name) is not None:
                strict.number(body[name], name, low, high)
        self._tools(ask, body)
        self._input(ask, body["input"], stored=body.get("store", True))
        self._format(ask, body)
        self._family(ask, body)
        ask.max_tokens = body.get("max_output_tokens")
        return ask

    def _input(self, ask: Ask, given: Any, *, stored: bool) -> None:
        if isinstance(given, str):
            ask.turn("user")
            ask.hear(given)
            return
        waiting: list[str] = []
        results: list[str] = []
        listed = strict.items(given, "input")
        for place, item in enumerate(listed):
            where = f"input[{place}]"
            kind = item.get("type", "message" if "role" in item else None) if isinstance(item, dict) else None
            if kind != "function_call_output":
                ask.learn(results)
                results = []
            match kind:
                case "message":
                    self._message(ask, item, where)
                case "function_call":
                    strict.fields(item, where, "id status", "type call_id name arguments")
                    if item.get("id"):
                        raise Refusal(f"Item '{item['id']}' not found.", status=404, field=f"{where}.id")
                    strict.text(item["call_id"], f"{where}.call_id", pattern=r".{1,64}")
                    strict.text(item["name"], f"{where}.name", pattern=NAME)
                    ask.turn("assistant")
                    ask.texts.append(strict.text(item["arguments"], f"{where}.arguments"))
                    if item["call_id"] in waiting:
                        raise Refusal(f"Duplicate item found with id {item['call_id']}.", field=where, why="invalid")
                    waiting.append(item["call_id"])
                case "function_call_output":
                    strict.fields(item, where, "id status", "type call_id output")
                    if item["call_id"] not in waiting:
                        raise Refusal(
                            f"No tool call found for function call output with call_id {item['call_id']}.",
                            field="input",
                        )
                    waiting.remove(item["call_id"])
                    results.append(self._output(ask, item["output"], f"{where}.output"))
                case "reasoning":
                    self._reasoning(item, where, listed[place + 1 :], stored=stored)
                case _:
                    raise Refusal(f"Invalid value: '{kind}'.", field=f"{where}.type", why="invalid")
        ask.learn(results)
        if waiting:
            raise Refusal(f"No tool output found for function call {waiting[0]}.", field="input")

    def _message(self, ask: Ask, item: dict[str, Any], where: str) -> None:
        strict.fields(item, where, "type id status phase", "role content")
        role = strict.one_of(item["role"], f"{where}.role", ("user", "assistant", "system", "developer"))
        content = item["content"]
        parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else strict.items(content, where)
        if role in ("user", "assistant"):
            ask.turn(role)
        for number, part in enumerate(parts):
            here = f"{where}.content[{number}]"
            if role == "assistant" and not isinstance(content, str):
                strict.one_of(part.get("type"), f"{here}.type", ("output_text", "refusal"))
                strict.fields(part, here, "annotations logprobs refusal text", "type")
                ask.texts.append(part.get("text", ""))
                continue
            match part.get("type"):
                case "input_text":
                    text = strict.text(strict.fields(part, here, "", "type text")["text"], f"{here}.text")
                    if role == "user":
                        ask.hear(text)
                    elif role in ("system", "developer"):
                        ask.system += text
                    else:
                        ask.texts.append(text)
                case "input_image" | "input_file" if role == "user":
                    ask.media.append(self._media(part, here))
                case kind:
                    raise Refusal(f"Invalid value: '{kind}'.", field=f"{here}.type", why="invalid")

    def _media(self, part: dict[str, Any], where: str) -> Media:
        if part["type"] == "input_image":
            strict.fields(part, where, "file_id", "type image_url detail")
            strict.one_of(part["detail"], f"{where}.detail", ("low", "high", "auto"))
            return strict.data_url(part["image_url"], f"{where}.image_url")
        strict.fields(part, where, "filename file_data file_url file_id detail", "type")
        if "file_url" in part:
            return Media("file/url", part["file_url"])
        strict.text(part.get("filename"), f"{where}.filename", empty=False)
        return strict.data_url(part.get("file_data"), f"{where}.file_data")

    def _output(self, ask: Ask, output: Any, where: str) -> str:
        if isinstance(output, str):
            return output
        texts = []
        for number, part in enumerate(strict.items(output, where)):
            if part.get("type") == "input_text":
                texts.append(part["text"])
            else:
                ask.media.append(self._media(part, f"{where}[{number}]"))
        return "".join(texts)

    def _reasoning(self, item: dict[str, Any], where: str, after: list[Any], *, stored: bool) -> None:
        strict.fields(item, where, "encrypted_content content status", "type id summary")
        if not stored and not item.get("encrypted_content"):
            raise Refusal(
                f"Item with id '{item['id']}' not found. Items are not persisted when `store` is false.", status=404
            )
        if not str(item.get("encrypted_content", SEAL)).startswith(SEAL):
            raise Refusal("The encrypted content could not be verified.", code="invalid_encrypted_content", field=where)
        following: dict[str, Any] = next(iter(after), {})
        if following.get("type") not in ("function_call", "reasoning") and following.get("role") != "assistant":
            raise Refusal(
                f"Item '{item['id']}' of type 'reasoning' was provided without its required following item.",
                field=where,
            )

    def _tools(self, ask: Ask, body: dict[str, Any]) -> None:
        tools = body.get("tools")
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body and not tools:
                raise Refusal(f"'{name}' is only allowed when 'tools' are specified.", field=name)
        for place, tool in enumerate(strict.items(tools, "tools") if tools is not None else []):
            where = f"tools[{place}]"
            strict.one_of(tool.get("type"), f"{where}.type", ("function",))
            strict.fields(tool, where, "description strict", "type name parameters")
            name = strict.text(tool["name"], f"{where}.name", pattern=NAME)
            if name in ask.tools:
                raise Refusal(f"Duplicate tool name {name}.", field=where, why="invalid")
            strict.object_root(tool["parameters"], f"{where}.parameters")
            if tool.get("strict", True):
                strict.openai_strict(tool["parameters"], f"{where}.parameters")
            ask.tools[name] = tool["parameters"]
        ask.parallel = body.get("parallel_tool_calls", True)
        match body.get("tool_choice", "auto"):
            case "auto" | "none" as choice:
                ask.choice = choice
            case "required":
                ask.choice = "any"
            case {"type": "function", "name": str(name), **rest} if not rest and name in ask.tools:
                ask.choice = name
            case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(allowed), **rest} if (
                not rest
            ):
                ask.tools = {one["name"]: ask.tools[one["name"]] for one in allowed}
                ask.choice = "any" if mode == "required" else "auto"
            case _:
                raise Refusal("Invalid value for 'tool_choice'.", field="tool_choice", why="invalid")

    def _format(self, ask: Ask, body: dict[str, Any]) -> None:
        text = strict.fields(body.get("text") or {}, "text", "format verbosity")
        match text.get("format"):
            case None | {"type": "text"}:
                pass
            case {"type": "json_object", **rest} if not rest:
                if "json" not in json.dumps([body["input"], body.get("instructions")]).lower():
                    raise Refusal("Response input messages must contain the word 'json' in some form.", field="input")
                ask.json_mode = True
            case {"type": "json_schema"} as asked:
                strict.fields(asked, "text.format", "strict description", "type name schema")
                strict.text(asked["name"], "text.format.name", pattern=NAME)
                strict.object_root(asked["schema"], "text.format.schema")
                if asked.get("strict"):
                    strict.openai_strict(asked["schema"], "text.format.schema")
                ask.schema = asked["schema"]
            case _:
                raise Refusal("Invalid value for 'text.format'.", field="text.format", why="invalid")

    def _family(self, ask: Ask, body: dict[str, Any]) -> None:
        efforts, default, sampling, _ = openai_family(ask.model)
        reasoning = body.get("reasoning")
        if reasoning is not None:
            strict.fields(reasoning, "reasoning", "effort summary generate_summary")
            if not efforts:
                raise Refusal(
                    f"Unsupported parameter: 'reasoning.effort' is not supported with {ask.model}.",
                    code="unsupported_parameter",
                    field="reasoning.effort",
                )
            if "effort" in reasoning and reasoning["effort"] not in [*efforts, "max"]:
                raise Refusal("Unsupported value.", code="unsupported_value", field="reasoning.effort")
            strict.one_of(reasoning.get("summary"), "reasoning.summary", (None, "auto", "concise", "detailed"))
        include = body.get("include") or []
        for place, one in enumerate(include):
            strict.one_of(one, f"include[{place}]", ("reasoning.encrypted_content", "message.output_text.logprobs"))
        if "reasoning.encrypted_content" in include and not efforts:
            raise Refusal("Encrypted content is not supported with this model.", field="include")
        effort = (reasoning or {}).get("effort", default)
        if sampling == "never" or (sampling == "with none" and effort != "none"):
            for name in ("temperature", "top_p", "top_logprobs"):
                if body.get(name) not in (None, None if name == "top_logprobs" else 1):
                    raise Refusal(
                        f"Unsupported parameter: '{name}' is not supported with this model.",
                        code="unsupported_parameter",
                        field=name,
                    )

    # ── answering ──

    async def create(self, body: dict[str, Any]) -> Reply | Stream:
        run = Run(self.asked(body), self.billed)
        if run.plan.blocked:
            raise Refusal("The prompt was flagged by the content filter.", code="content_filter")
        answer = Answer(run, body)
        if body.get("stream"):
            return Stream(answer.sse(), cut_into=run.plan.dribble)
        plan = await run.whole()
        return Reply(body=answer.response(status_of(plan), answer.output()))


def status_of(plan: Plan) -> str:
    return "incomplete" if plan.end in ("max", "safety") else "completed"


class Answer:
    """One response object, whole or as events."""

    def __init__(self, run: Run, body: dict[str, Any]) -> None:
        self.run, self.body, self.plan = run, body, run.plan
        self.id = f"resp_{Call(run.ask.model, run.ask.prompt).id}"
        self._number = 0

    def response(self, status: str, output: list[dict[str, Any]], error: Any = None) -> dict[str, Any]:
        reason = {"max": "max_output_tokens", "safety": "content_filter"}.get(self.plan.end)
        return {
            "id": self.id,
            "object": "response",
            "created_at": 1767225600,
            "status": status,
            "error": error,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "instructions": self.body.get("instructions"),
            "max_output_tokens": self.body.get("max_output_tokens"),
            "model": self.run.ask.model,
            "output": output,
            "parallel_tool_calls": self.run.ask.parallel,
            "previous_response_id": None,
            "reasoning": self.body.get("reasoning") or {"effort": None, "summary": None},
            "store": self.body.get("store", True),
            "temperature": 1.0,
            "text": self.body.get("text") or {"format": {"type": "text"}},
            "tool_choice": self.body.get("tool_choice", "auto"),
            "tools": self.body.get("tools", []),
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage(self.run.usage) if status in ("completed", "incomplete") else None,
            "metadata": {},
        }

    def output(self) -> list[dict[str, Any]]:
        """The items in order: reasoning, message, calls. A safety stop leaves an empty list behind."""
        plan = self.plan
        items: list[dict[str, Any]] = [self.reasoning()] if plan.thoughts else []
        if plan.text:
            items.append(self.message(self.content()))
        items += [self.call(call, place) for place, call in enumerate(plan.calls)]
        return items

    def reasoning(self) -> dict[str, Any]:
        wanted = (self.body.get("reasoning") or {}).get("summary")
        item: dict[str, Any] = {
            "id": f"rs_{Call('rs', self.plan.whole_thought).id}",
            "type": "reasoning",
            "summary": [],
        }
        if wanted:
            item["summary"] = [{"type": "summary_text", "text": self.plan.whole_thought}]
        if "reasoning.encrypted_content" in (self.body.get("include") or []):
            item["encrypted_content"] = f"{SEAL}{Call('sealed', self.plan.whole_thought).id}"
        return item

    def content(self) -> dict[str, Any]:
        if self.plan.end == "refusal":
            return {"type": "refusal", "refusal": self.plan.whole_text}
        part: dict[str, Any] = {"type": "output_text", "text": self.plan.whole_text, "annotations": [], "logprobs": []}
        if "message.output_text.logprobs" in (self.body.get("include") or []):
            part["logprobs"] = [_logprob(piece) for piece in self.plan.text]
        return part

    def message(self, content: dict[str, Any]) -> dict[str, Any]:
        status = "incomplete" if self.plan.end == "max" else "completed"
        return {"id": f"msg_{self.id}", "type": "message", "status": status, "role": "assistant", "content": [content]}

    def call(self, call: Call, place: int) -> dict[str, Any]:
        return {
            "id": f"fc_{call.id}{place}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_{call.id}{place}",
            "name": call.name,
            "arguments": call.arguments,
        }

    # ── as events ──

    async def sse(self) -> AsyncIterator[bytes]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self.response("in_progress", []))
        shown = bool((self.body.get("reasoning") or {}).get("summary"))
        place, calls, opened = 0, 0, ""
        try:
            async for kind, value in self.run.steps():
                if kind != opened or kind == "call":
                    for event in self._close(opened, place, shown=shown):
                        yield event
                    place += bool(opened) and opened != "call"
                    opened = kind
                    for event in self._open(kind, place, value, calls):
                        yield event
                if kind == "thought" and shown:
                    where = {"item_id": self.reasoning()["id"], "output_index": place, "summary_index": 0}
                    yield self._event("response.reasoning_summary_text.delta", **where, delta=value)
                elif kind == "text":
                    name = "refusal" if self.plan.end == "refusal" else "output_text"
                    where = {"item_id": self.message({})["id"], "output_index": place, "content_index": 0}
                    extra = {} if name == "refusal" else {"logprobs": self._logprobs(value)}
                    yield self._event(f"response.{name}.delta", **where, delta=value, **extra)
                elif kind == "call":
                    place, calls = place + 1, calls + 1
            for event in self._close(opened, place, shown=shown):
                yield event
            status = status_of(self.plan)
            yield self._event(f"response.{status}", response=self.response(status, self.output()))
        except Broken:
            error = {"code": "server_error", "message": "The server had an error while processing your request."}
            yield self._event("response.failed", response=self.response("failed", [], error))

    def _open(self, kind: str, place: int, value: Any, calls: int) -> Iterator[bytes]:
        where = {"output_index": place}
        if kind == "thought":
            yield self._event("response.output_item.added", **where, item={**self.reasoning(), "summary": []})
        elif kind == "text":
            item = {**self.message({}), "content": [], "status": "in_progress"}
            yield self._event("response.output_item.added", **where, item=item)
            part = {key: "" if key in ("text", "refusal") else value for key, value in self.content().items()}
            yield self._event("response.content_part.added", item_id=item["id"], **where, content_index=0, part=part)
        else:
            item = self.call(value, calls)
            begun = {**item, "arguments": "", "status": "in_progress"}
            yield self._event("response.output_item.added", **where, item=begun)
            cut = max(1, len(value.arguments) // 2)
            for piece in (value.arguments[:cut], value.arguments[cut:]):
                if piece:
                    yield self._event(
                        "response.function_call_arguments.delta", item_id=item["id"], **where, delta=piece
                    )
            done = {"item_id": item["id"], **where, "name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **done)
            yield self._event("response.output_item.done", **where, item=item)

    def _close(self, kind: str, place: int, *, shown: bool) -> Iterator[bytes]:
        where = {"output_index": place}
        if kind == "thought":
            item = self.reasoning()
            if shown:
                done = {"item_id": item["id"], **where, "summary_index": 0, "text": self.plan.whole_thought}
                yield self._event("response.reasoning_summary_text.done", **done)
            yield self._event("response.output_item.done", **where, item=item)
        elif kind == "text":
            content = self.content()
            item = self.message(content)
            spot = {"item_id": item["id"], **where, "content_index": 0}
            name = "refusal" if "refusal" in content else "output_text"
            said = {key: content[key] for key in ("text", "refusal", "logprobs") if key in content}
            yield self._event(f"response.{name}.done", **spot, **said)
            yield self._event("response.content_part.done", **spot, part=content)
            yield self._event("response.output_item.done", **where, item=item)

    def _logprobs(self, piece: str) -> list[dict[str, Any]]:
        return [_logprob(piece)] if "message.output_text.logprobs" in (self.body.get("include") or []) else []

    def _event(self, kind: str, **data: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._number, **data}
        self._number += 1
        return f"event: {kind}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def usage(used: Usage) -> dict[str, Any]:
    return {
        "input_tokens": used.input,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens": used.output + used.thoughts,
        "output_tokens_details": {"reasoning_tokens": used.thoughts},
        "total_tokens": used.total,
    }


def _logprob(piece: str) -> dict[str, Any]:
    one = {"token": piece, "logprob": -0.1, "bytes": list(piece.encode())}
    return {**one, "top_logprobs": [one]}
