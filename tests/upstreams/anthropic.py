"""Anthropic's Messages API: alternating turns, content blocks, thinking whose signature only its maker can read.

The same body travels to Vertex and Bedrock; `Messages` is what they share.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from tests.upstreams import strict
from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.families import claude
from tests.upstreams.script import Ask, Broken, Call, Media, Plan, Refusal, Run, Usage, decoded

FIELDS = (
    "system temperature top_p top_k stop_sequences stream tools tool_choice thinking output_config metadata service_tier"
    " container mcp_servers context_management cache_control speed"
)
ID = r"[a-zA-Z0-9_-]+"
NAME = r"[a-zA-Z0-9_-]{1,128}"
SIGNED = "EqQB"  # signatures of its own begin with it
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
STOPS = {"stop": "end_turn", "stop_sequence": "stop_sequence", "tools": "tool_use", "max": "max_tokens",
         "safety": "refusal", "refusal": "refusal", "empty": "end_turn"}  # fmt: skip


class Anthropic(Upstream):
    """`/v1/messages`, `/v1/messages/count_tokens`, `/v1/models`."""

    api_key = "upstream-key"
    versions = ("2023-06-01", "2026-10-21")

    async def respond(self, request: Request) -> Reply | Stream:
        self.authorize(request)
        if request.method == "GET" and request.path == "/v1/models":
            data = [
                {
                    "type": "model",
                    "id": "claude-sonnet-4-5",
                    "display_name": "Claude",
                    "created_at": "2026-01-01T00:00:00Z",
                }
            ]
            return Reply(body={"data": data, "has_more": False, "first_id": None, "last_id": None})
        if not isinstance(request.json, dict):
            raise Refusal("The request body is not valid JSON.")
        body = dict(request.json)
        model = strict.text(body.pop("model", None), "model", empty=False)
        match request.method, request.path:
            case "POST", "/v1/messages":
                if request.headers["anthropic-version"] == "2026-10-21":
                    for name in ("temperature", "top_p", "top_k"):
                        if name in body:
                            raise Refusal("Extra inputs are not permitted", field=name, why="unknown")
                return await Messages(model, body, self).create()
            case "POST", "/v1/messages/count_tokens":
                return Reply(body={"input_tokens": Messages(model, body, self, counting=True).ask.prompt_tokens})
        raise Refusal(f"Not found: {request.path}", status=404)

    def authorize(self, request: Request) -> None:
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if key != self.api_key:
            raise Refusal("invalid x-api-key", status=401)
        if request.headers.get("anthropic-version") not in self.versions:
            raise Refusal("anthropic-version: header is required", why="missing", field="anthropic-version")

    def refuse(self, refusal: Refusal) -> Reply:
        return Reply(*error_of(refusal))


def error_of(refusal: Refusal) -> tuple[int, dict[str, Any], dict[str, str]]:
    headers = {"request-id": "req_upstream"}
    if refusal.retry_after is not None:
        headers["retry-after"] = f"{refusal.retry_after:g}"
    message = refusal.message
    if refusal.code == "context":
        message = "prompt is too long: 250000 tokens > 200000 maximum"
    elif refusal.code == "quota":
        message = "Your credit balance is too low to access the Anthropic API."
    elif refusal.why == "unknown":
        message = f"{refusal.field}: Extra inputs are not permitted"
    error = {"type": ERRORS.get(refusal.status, "api_error"), "message": message}
    return refusal.status, {"type": "error", "error": error, "request_id": "req_upstream"}, headers


class Messages:
    """One request to a Claude model, whoever hosts it: checked when made, then answered whole or as events.

    body: without `model` (hosts carry it in the path) and without the host's own fields.
    """

    def __init__(self, model: str, body: dict[str, Any], upstream: Upstream, *, counting: bool = False) -> None:
        self.model, self.body, self.upstream = model, body, upstream
        self.traits = claude(model)
        if self.traits is None:
            raise Refusal(f"model: {model}", status=404)
        strict.fields(
            body, "", FIELDS + " max_tokens" if counting else FIELDS, "messages" if counting else "messages max_tokens"
        )
        self.ask = Ask(model, blocks=False, system=self._system(body.get("system")))
        self._limits(counting=counting)
        self._tools()
        self._thinking()
        self._turns(body["messages"])
        self._format()

    # ── reading ──

    def _limits(self, *, counting: bool) -> None:
        body, traits = self.body, self.traits
        assert traits is not None
        if not counting:
            strict.number(body["max_tokens"], "max_tokens", 1, 1e9, whole=True)
            if body["max_tokens"] > traits.output:
                raise Refusal(
                    f"max_tokens: {body['max_tokens']} > {traits.output}, which is the maximum allowed number of output"
                    f" tokens for {self.model}",
                    field="max_tokens",
                )
            self.ask.max_tokens = body["max_tokens"]
        for name, high in (("temperature", 1), ("top_p", 1), ("top_k", 1e9)):
            if name in body:
                strict.number(body[name], name, 0, high)
                if traits.sampling == "no":
                    raise Refusal(f"`{name}` is not supported by this model.", field=name)
        if traits.sampling == "one" and "temperature" in body and "top_p" in body:
            raise Refusal("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
        for place, one in enumerate(strict.items(body.get("stop_sequences", []), "stop_sequences", empty=True)):
            if not strict.text(one, f"stop_sequences.{place}").strip():
                raise Refusal(f"stop_sequences.{place}: each stop sequence must contain non-whitespace", why="invalid")
        self.ask.stop = body.get("stop_sequences", [])

    def _system(self, system: Any) -> str:
        if system is None or isinstance(system, str):
            return system or ""
        blocks = strict.items(system, "system")
        return "\n".join(self._text(block, f"system.{place}") for place, block in enumerate(blocks))

    def _text(self, block: Any, where: str) -> str:
        strict.fields(block, where, "cache_control citations", "type text")
        strict.one_of(block["type"], f"{where}.type", ("text",))
        if not strict.text(block["text"], f"{where}.text").strip():
            raise Refusal("text content blocks must contain non-whitespace text", field=where)
        return str(block["text"])

    def _tools(self) -> None:
        body, tools = self.body, self.body.get("tools")
        for place, tool in enumerate(strict.items(tools, "tools", empty=True) if tools is not None else []):
            where = f"tools.{place}"
            strict.fields(tool, where, "description cache_control strict type", "name input_schema")
            name = strict.text(tool["name"], f"{where}.name", pattern=NAME)
            if name in self.ask.tools:
                raise Refusal("tools: Tool names must be unique.", field=where)
            strict.object_root(tool["input_schema"], f"{where}.input_schema")
            if tool.get("strict"):
                strict.anthropic_strict(tool["input_schema"], f"{where}.input_schema")
            self.ask.tools[name] = tool["input_schema"]
        choice = body.get("tool_choice")
        if choice is None:
            return
        if not self.ask.tools:
            raise Refusal(
                "tool_choice: `tool_choice` may only be specified while providing `tools`.", field="tool_choice"
            )
        strict.fields(choice, "tool_choice", "name disable_parallel_tool_use", "type")
        kind = strict.one_of(choice["type"], "tool_choice.type", ("auto", "any", "tool", "none"))
        if kind == "tool" and choice.get("name") not in self.ask.tools:
            raise Refusal(f"Tool '{choice.get('name')}' not found in provided tools", field="tool_choice.name")
        self.ask.choice = choice["name"] if kind == "tool" else kind
        self.ask.parallel = not choice.get("disable_parallel_tool_use", False)

    def _thinking(self) -> None:
        """Which modes a model knows, and what thinking forbids."""
        body, traits = self.body, self.traits
        assert traits is not None
        thinking = body.get("thinking")
        forced = self.ask.choice not in ("auto", "none")
        effort = strict.fields(body.get("output_config", {}), "output_config", "effort format").get("effort")
        if effort is not None:
            strict.one_of(effort, "output_config.effort", traits.effort.split())
        kind = ""
        if thinking is not None:
            kind = strict.one_of(
                thinking.get("type"), "thinking.type", ("enabled", "disabled", "adaptive", "between_tools")
            )
            allowed = {"enabled": "budget_tokens display", "adaptive": "display block_binding"}.get(kind, "")
            strict.fields(thinking, "thinking", allowed, "type")
            if kind not in traits.modes.split():
                raise Refusal(f'"thinking.type.{kind}" is not supported for this model.', field="thinking.type")
        if thinking and kind == "enabled":
            budget = strict.number(
                thinking.get("budget_tokens"), "thinking.enabled.budget_tokens", 1024, 1e9, whole=True
            )
            if budget >= body.get("max_tokens", 1e9):
                raise Refusal("`max_tokens` must be greater than `thinking.budget_tokens`.", field="max_tokens")
            if body.get("temperature", 1) != 1 or "top_k" in body or body.get("top_p", 1) < 0.95:
                raise Refusal("`temperature` may only be set to 1 when thinking is enabled.", field="temperature")
            if forced:
                raise Refusal("Thinking may not be enabled when tool_choice forces tool use.", field="tool_choice")
        if forced and traits.forced == "no":
            raise Refusal("tool_choice: forced tool use is not supported by this model.", field="tool_choice")
        self.ask.thinks = kind in ("enabled", "adaptive") or (traits.always and kind != "disabled")
        self.budget = kind == "enabled"
        self.shown = bool(
            thinking and thinking.get("display", "summarized" if self.budget else "omitted") == "summarized"
        )

    def _turns(self, messages: Any) -> None:
        ask, last = self.ask, ""
        calls: list[str] = []  # ids of the turn before, waiting for their results
        tools_seen = False
        for place, message in enumerate(strict.items(messages, "messages")):
            where = f"messages.{place}"
            strict.fields(message, where, "", "role content")
            role = strict.one_of(message["role"], f"{where}.role", ("user", "assistant"))
            if role == last or (place == 0 and role != "user"):
                raise Refusal('messages: roles must alternate between "user" and "assistant"', field="messages")
            last = role
            content = message["content"]
            blocks = (
                [{"type": "text", "text": content}]
                if isinstance(content, str)
                else strict.items(content, f"{where}.content")
            )
            ask.turn(role)
            if role == "user":
                results = self._user(blocks, where)
                if set(results) != set(calls):
                    odd = sorted(set(results) ^ set(calls))
                    raise Refusal(
                        f"{where}.content.0: `tool_use` ids were found without `tool_result` blocks immediately after, or"
                        f" unexpected `tool_use_id` found in `tool_result` blocks: {', '.join(odd)}.",
                        field=where,
                    )
                calls = []
            else:
                calls = self._assistant(blocks, where)
            tools_seen = tools_seen or bool(calls)
        if calls:
            raise Refusal("`tool_use` ids were found without `tool_result` blocks immediately after.", field="messages")
        if tools_seen and not self.ask.tools:
            raise Refusal("Requests which include `tool_use` or `tool_result` blocks must define tools.", field="tools")
        if last == "assistant":
            self._prefill(messages[-1]["content"])

    def _prefill(self, content: Any) -> None:
        assert self.traits is not None
        if not self.traits.prefill:
            raise Refusal(
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )
        text = content if isinstance(content, str) else content[-1].get("text", "")
        if text != text.rstrip():
            raise Refusal("messages: final assistant content cannot end with trailing whitespace")

    def _user(self, blocks: list[Any], where: str) -> list[str]:
        ids: list[str] = []
        texts: list[str] = []
        other = False
        for number, block in enumerate(blocks):
            here = f"{where}.content.{number}"
            match block.get("type"):
                case "tool_result":
                    if other:
                        raise Refusal(f"{here}: tool_result blocks must come first", field=here)
                    strict.fields(block, here, "content is_error cache_control", "type tool_use_id")
                    ids.append(strict.text(block["tool_use_id"], f"{here}.tool_use_id", pattern=ID))
                    texts.append(self._result(block.get("content", ""), here))
                case "text":
                    if texts:
                        self.ask.learn(texts)
                        texts = []
                    self.ask.hear(self._text(block, here))
                    other = True
                case "image" | "document":
                    self.ask.media.append(self._media(block, here))
                    other = True
                case kind:
                    raise Refusal(f"{here}: Input tag '{kind}' is not allowed here", field=here, why="invalid")
        self.ask.learn(texts)
        return ids

    def _result(self, content: Any, where: str) -> str:
        if isinstance(content, str):
            return content
        said = []
        for number, block in enumerate(strict.items(content, f"{where}.content", empty=True)):
            if block.get("type") == "text":
                said.append(self._text(block, f"{where}.content.{number}"))
            else:
                self.ask.media.append(self._media(block, f"{where}.content.{number}"))
        return "".join(said)

    def _media(self, block: dict[str, Any], where: str) -> Media:
        strict.fields(block, where, "cache_control title context citations", "type source")
        source = block["source"]
        match source.get("type"):
            case "base64":
                strict.fields(source, f"{where}.source", "", "type media_type data")
                allowed = IMAGES if block["type"] == "image" else ("application/pdf",)
                strict.one_of(source["media_type"], f"{where}.source.base64.media_type", allowed)
                decoded(source["data"], f"{where}.source.base64.data")
                return Media(source["media_type"], source["data"])
            case "url":
                strict.text(source.get("url"), f"{where}.source.url", pattern=r"https://.+")
                return Media(f"{block['type']}/url", source["url"])
            case "text" if block["type"] == "document":
                strict.fields(source, f"{where}.source", "", "type media_type data")
                strict.one_of(source["media_type"], f"{where}.source.media_type", ("text/plain",))
                self.ask.texts.append(source["data"])
                return Media("text/plain", source["data"])
        raise Refusal(f"{where}.source: Input tag is not allowed here", field=where, why="invalid")

    def _assistant(self, blocks: list[Any], where: str) -> list[str]:
        ids: list[str] = []
        for number, block in enumerate(blocks):
            here = f"{where}.content.{number}"
            match block.get("type"):
                case "text":
                    self.ask.texts.append(self._text(block, here))
                case "tool_use":
                    strict.fields(block, here, "cache_control", "type id name input")
                    strict.text(block["id"], f"{here}.id", pattern=ID)
                    strict.text(block["name"], f"{here}.name", pattern=NAME)
                    if not isinstance(block["input"], dict):
                        raise Refusal(f"{here}.input: Input should be a valid dictionary", field=f"{here}.input")
                    if block["id"] in ids:
                        raise Refusal("messages: `tool_use` ids must be unique", field=here)
                    ids.append(block["id"])
                case "thinking":
                    strict.fields(block, here, "", "type thinking signature")
                    if not str(block["signature"]).startswith(SIGNED):
                        raise Refusal(f"{here}: Invalid `signature` in `thinking` block", field=here)
                case "redacted_thinking":
                    strict.fields(block, here, "", "type data")
                case kind:
                    raise Refusal(f"{here}: Input tag '{kind}' is not allowed here", field=here, why="invalid")
        if self.budget and ids and blocks[0].get("type") not in ("thinking", "redacted_thinking"):
            raise Refusal(
                f"{where}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{blocks[0].get('type')}`."
                " When `thinking` is enabled, a final `assistant` message must start with a thinking block.",
                field=where,
            )
        return ids

    def _format(self) -> None:
        assert self.traits is not None
        wanted = self.body.get("output_config", {}).get("format")
        if wanted is None:
            return
        strict.fields(wanted, "output_config.format", "", "type schema")
        strict.one_of(wanted["type"], "output_config.format.type", ("json_schema",))
        if not self.traits.structured:
            raise Refusal("output_config.format: structured outputs are not supported by this model.")
        strict.anthropic_strict(wanted["schema"], "output_config.format.schema")
        self.ask.schema = wanted["schema"]

    # ── answering ──

    def run(self) -> Run:
        return Run(self.ask, self.upstream.billed)

    async def create(self) -> Reply | Stream:
        run = self.run()
        headers = {"request-id": "req_upstream"}
        if self.body.get("stream"):
            return Stream(self._sse(run), headers=headers, cut_into=run.plan.dribble)
        return Reply(body=self.message(run, await run.whole()), headers=headers)

    def message(self, run: Run, plan: Plan) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if plan.thoughts:
            content.append(
                {"type": "thinking", "thinking": plan.whole_thought if self.shown else "", "signature": sealed(plan)}
            )
        if plan.text:
            content.append({"type": "text", "text": plan.whole_text})
        content += [_tool_use(call, place, call.args) for place, call in enumerate(plan.calls)]
        return {**self._head(), "content": content, **_stop(plan), "usage": usage(run.usage)}

    def _head(self) -> dict[str, Any]:
        ident = f"msg_{Call(self.model, self.ask.prompt).id}"
        return {"id": ident, "type": "message", "role": "assistant", "model": self.model}

    async def events(self, run: Run) -> AsyncIterator[dict[str, Any]]:
        """The stream's events, as objects with a `type`. A host wraps them in its own frames."""
        begun = usage(run.usage) | {"output_tokens": 1}
        message = {**self._head(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": begun}
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}
        place, opened, calls = -1, "", 0
        async for kind, value in run.steps():
            if kind != opened or kind == "call":
                if opened:
                    for event in self._close(opened, place, run.plan):
                        yield event
                place, opened = place + 1, kind
                yield {"type": "content_block_start", "index": place, "content_block": _opening(kind, value, calls)}
            for delta in self._deltas(kind, value):
                yield {"type": "content_block_delta", "index": place, "delta": delta}
            calls += kind == "call"
        if opened:
            for event in self._close(opened, place, run.plan):
                yield event
        counted = {name: count for name, count in usage(run.usage).items() if name != "service_tier"}
        yield {"type": "message_delta", "delta": _stop(run.plan), "usage": counted}
        yield {"type": "message_stop"}

    def _deltas(self, kind: str, value: Any) -> list[dict[str, Any]]:
        if kind == "thought":
            return [{"type": "thinking_delta", "thinking": value}] if self.shown else []
        if kind == "text":
            return [{"type": "text_delta", "text": value}]
        cut = max(1, len(value.arguments) // 2)
        pieces = ["", value.arguments[:cut], value.arguments[cut:]]
        return [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]

    def _close(self, kind: str, place: int, plan: Plan) -> list[dict[str, Any]]:
        end = {"type": "content_block_stop", "index": place}
        if kind == "thought":
            delta = {"type": "signature_delta", "signature": sealed(plan)}
            return [{"type": "content_block_delta", "index": place, "delta": delta}, end]
        return [end]

    async def _sse(self, run: Run) -> AsyncIterator[bytes]:
        try:
            async for event in self.events(run):
                yield _sse(event)
        except Broken:
            yield _sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def usage(used: Usage) -> dict[str, Any]:
    """Input without what was cached: those tokens are told apart."""
    return {
        "input_tokens": used.input - used.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": used.cached,
        "output_tokens": used.output + used.thoughts,
        "output_tokens_details": {"thinking_tokens": used.thoughts},
        "service_tier": "standard",
    }


def sealed(plan: Plan) -> str:
    return SIGNED + Call("thinking", plan.whole_thought).id


def _stop(plan: Plan) -> dict[str, Any]:
    stop = {"stop_reason": STOPS[plan.end], "stop_sequence": plan.stopped_at or None}
    if stop["stop_reason"] == "refusal":
        stop["stop_details"] = {"type": "refusal", "category": "harm", "explanation": "It asks for something harmful."}  # type: ignore[assignment]  # the only object among texts
    return stop


def _tool_use(call: Call, place: int, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call.id}{place}", "name": call.name, "input": value}


def _opening(kind: str, value: Any, calls: int) -> dict[str, Any]:
    if kind == "thought":
        return {"type": "thinking", "thinking": "", "signature": ""}
    if kind == "text":
        return {"type": "text", "text": ""}
    return _tool_use(value, calls, {})


def _sse(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def without_version(body: dict[str, Any], accepted: str) -> dict[str, Any]:
    """A hosted body: the version stands in it, betas are a list, and there is no `model`. Raises Refusal."""
    version = body.get("anthropic_version")
    if not isinstance(version, str) or not re.fullmatch(accepted, version):
        raise Refusal("anthropic_version: Field required", field="anthropic_version", why="missing")
    if "model" in body:
        raise Refusal("model: Extra inputs are not permitted", field="model", why="unknown")
    return {name: value for name, value in body.items() if name not in ("anthropic_version", "anthropic_beta")}
