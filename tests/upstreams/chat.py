"""Chat Completions: OpenAI's own, Azure's paths and filters, Gemini's compatible endpoint, and a lenient imitation."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

from tests.upstreams import strict
from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.families import openai_family
from tests.upstreams.gemini import DUMMY, STATUS_WORDS
from tests.upstreams.responses import OpenAIResponses
from tests.upstreams.script import Ask, Broken, Call, Media, Refusal, Run, Usage, decoded, vector

FIELDS = (
    "model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens presence_penalty"
    " frequency_penalty logit_bias logprobs top_logprobs user safety_identifier prompt_cache_key seed tools tool_choice"
    " parallel_tool_calls response_format reasoning_effort store metadata service_tier modalities audio prediction"
    " verbosity web_search_options"
)
NAME = r"[a-zA-Z0-9_-]{1,64}"


class OpenAI(Upstream):
    """`/v1/chat/completions`, `/v1/embeddings`, `/v1/models`, with a bearer key."""

    api_key = "upstream-key"
    fields = FIELDS
    base = "/v1"

    async def respond(self, request: Request) -> Reply | Stream:
        self.authorize(request)
        match request.method, request.path.removeprefix(self.base):
            case "POST", "/chat/completions":
                return await self.complete(_object(request))
            case "POST", "/embeddings":
                return self.embed(_object(request))
            case "GET", "/models":
                listed = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "system"} for name in ("gpt-4o", "gpt-5")
                ]
                return Reply(body={"object": "list", "data": listed})
        raise Refusal(f"Invalid URL ({request.method} {request.path})", status=404)

    def authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise Refusal("Incorrect API key provided.", status=401, code="invalid_api_key")

    def refuse(self, refusal: Refusal) -> Reply:
        status, headers = refusal.status, {"x-request-id": "req_upstream"}
        if refusal.retry_after is not None:
            headers["retry-after"] = f"{refusal.retry_after:g}"
        known = {"context": "context_length_exceeded", "quota": "insufficient_quota"}
        by_why = {"unknown": "unknown_parameter", "missing": "missing_required_parameter", "invalid": "invalid_value"}
        default = {429: "rate_limit_exceeded", 404: "model_not_found"}.get(status)
        code = known.get(refusal.code) or refusal.code or by_why.get(refusal.why) or default
        kind = "invalid_request_error" if status < 500 else "server_error"
        if status == 429:
            kind = "insufficient_quota" if refusal.code == "quota" else "requests"
        message = refusal.message
        if refusal.why == "unknown":
            message = f"Unknown parameter: '{refusal.field}'."
        error = {"message": message, "type": kind, "param": refusal.field or None, "code": code}
        return Reply(status, {"error": error}, headers)

    # ── reading ──

    def asked(self, body: dict[str, Any]) -> Ask:
        strict.fields(body, "", self.fields, "model messages")
        ask = Ask(strict.text(body["model"], "model", empty=False))
        self._settings(body)
        self._tools(ask, body)
        self._messages(ask, body["messages"])
        self._format(ask, body)
        self._family(ask, body)
        ask.stop = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        ask.max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
        return ask

    def _settings(self, body: dict[str, Any]) -> None:
        for name, low, high in (
            ("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2),
            ("n", 1, 128), ("max_tokens", 1, 1e9), ("max_completion_tokens", 1, 1e9), ("top_logprobs", 0, 20),
        ):  # fmt: skip
            if body.get(name) is not None:
                strict.number(body[name], name, low, high)
        if "max_tokens" in body and "max_completion_tokens" in body:
            raise Refusal("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
        if "stream_options" in body and not body.get("stream"):
            raise Refusal(
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.", field="stream_options"
            )
        if body.get("top_logprobs") is not None and not body.get("logprobs"):
            raise Refusal("The 'logprobs' parameter must be true to use 'top_logprobs'.", field="top_logprobs")
        stop = body.get("stop")
        if isinstance(stop, list) and (len(stop) > 4 or not all(isinstance(one, str) and one for one in stop)):
            raise Refusal(
                f"Invalid 'stop': array too long. Expected at most 4, got {len(stop)}.", field="stop", why="invalid"
            )

    def _messages(self, ask: Ask, messages: Any) -> None:
        waiting: list[str] = []  # ids of calls that have no answer yet
        results: list[str] = []
        for place, message in enumerate(strict.items(messages, "messages")):
            where = f"messages[{place}]"
            role = strict.one_of(message.get("role"), f"{where}.role", self.roles())
            if waiting and role != "tool":
                raise Refusal(
                    "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
                    f" 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}",
                    field=where,
                )
            if role != "tool":
                ask.learn(results)
                results = []
                ask.turn(role)
            match role:
                case "system" | "developer":
                    strict.fields(message, where, "name", "role content")
                    ask.system += self._texts(message["content"], f"{where}.content")
                case "user":
                    strict.fields(message, where, "name", "role content")
                    self._user(ask, message["content"], f"{where}.content")
                case "assistant":
                    waiting = self._assistant(ask, message, where)
                case "tool":
                    strict.fields(message, where, "name", "role content tool_call_id")
                    if message["tool_call_id"] not in waiting:
                        raise Refusal(
                            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message"
                            " with 'tool_calls'.",
                            field=f"{where}.role",
                        )
                    waiting.remove(message["tool_call_id"])
                    results.append(self._texts(message["content"], f"{where}.content"))
        if waiting:
            raise Refusal(f"tool_call_ids did not have response messages: {', '.join(waiting)}", field="messages")
        ask.learn(results)

    def roles(self) -> tuple[str, ...]:
        return ("system", "developer", "user", "assistant", "tool")

    def _texts(self, content: Any, where: str) -> str:
        if isinstance(content, str):
            return content
        return "".join(
            strict.text(strict.fields(part, where, "type text").get("text"), where)
            for part in strict.items(content, where)
        )

    def _user(self, ask: Ask, content: Any, where: str) -> None:
        if isinstance(content, str):
            ask.hear(content)
            return
        for place, part in enumerate(strict.items(content, where)):
            here = f"{where}[{place}]"
            match strict.one_of(part.get("type"), f"{here}.type", ("text", "image_url", "input_audio", "file")):
                case "text":
                    strict.fields(part, here, "", "type text")
                    ask.hear(strict.text(part["text"], f"{here}.text"))
                case "image_url":
                    strict.fields(part, here, "", "type image_url")
                    image = strict.fields(part["image_url"], f"{here}.image_url", "detail", "url")
                    strict.one_of(image.get("detail", "auto"), f"{here}.image_url.detail", ("auto", "low", "high"))
                    ask.media.append(strict.data_url(image["url"], f"{here}.image_url.url"))
                case "input_audio":
                    audio = strict.fields(part["input_audio"], f"{here}.input_audio", "", "data format")
                    decoded(audio["data"], f"{here}.input_audio.data")
                    ask.media.append(Media(f"audio/{audio['format']}", audio["data"]))
                case "file":
                    self.file(ask, strict.fields(part["file"], f"{here}.file", "filename file_data file_id"), here)

    def file(self, ask: Ask, file: dict[str, Any], where: str) -> None:
        if "file_data" in file and not file.get("filename"):
            raise Refusal(
                f"Missing required parameter: '{where}.file.filename'.", field=f"{where}.file.filename", why="missing"
            )
        ask.media.append(strict.data_url(file.get("file_data", ""), f"{where}.file.file_data"))

    def _assistant(self, ask: Ask, message: dict[str, Any], where: str) -> list[str]:
        strict.fields(message, where, "content refusal name audio tool_calls", "role")
        calls = message.get("tool_calls")
        if message.get("content") is None and not calls:
            raise Refusal(
                "Invalid value for 'content': expected a string, got null.", field=f"{where}.content", why="invalid"
            )
        if message.get("content"):
            ask.texts.append(self._texts(message["content"], f"{where}.content"))
        ids: list[str] = []
        for place, call in enumerate(strict.items(calls, f"{where}.tool_calls") if calls is not None else []):
            here = f"{where}.tool_calls[{place}]"
            self.call_fields(call, here)
            strict.text(call["id"], f"{here}.id", pattern=r".{1,40}")
            function = strict.fields(call["function"], f"{here}.function", "", "name arguments")
            strict.text(function["name"], f"{here}.function.name", pattern=NAME)
            ask.texts.append(strict.text(function["arguments"], f"{here}.function.arguments"))
            if call["id"] in ids:
                raise Refusal(
                    f"Duplicate value for 'tool_call_id' of '{call['id']}'", field=f"{here}.id", why="invalid"
                )
            ids.append(call["id"])
        return ids

    def call_fields(self, call: Any, where: str) -> None:
        strict.fields(call, where, "", "id type function")

    def _tools(self, ask: Ask, body: dict[str, Any]) -> None:
        tools = body.get("tools")
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body and not tools:
                raise Refusal(f"'{name}' is only allowed when 'tools' are specified.", field=name)
        for place, tool in enumerate(strict.items(tools, "tools") if tools is not None else []):
            where = f"tools[{place}]"
            strict.fields(tool, where, "", "type function")
            strict.one_of(tool["type"], f"{where}.type", ("function",))
            function = strict.fields(tool["function"], f"{where}.function", "description parameters strict", "name")
            name = strict.text(function["name"], f"{where}.function.name", pattern=NAME)
            if name in ask.tools:
                raise Refusal(f"Duplicate tool name {name}.", field=where, why="invalid")
            schema = function.get("parameters", {"type": "object", "properties": {}})
            strict.object_root(schema, f"{where}.function.parameters")
            if function.get("strict"):
                strict.openai_strict(schema, f"{where}.function.parameters")
            ask.tools[name] = schema
        ask.parallel = body.get("parallel_tool_calls", True)
        self._choice(ask, body.get("tool_choice", "auto"))

    def _choice(self, ask: Ask, choice: Any) -> None:
        match choice:
            case "auto" | "none":
                ask.choice = choice
            case "required":
                ask.choice = "any"
            case {"type": "function", "function": {"name": str(name)}, **rest} if not rest and name in ask.tools:
                ask.choice = name
            case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": tools}}:
                names = [tool["function"]["name"] for tool in tools]
                if set(names) - ask.tools.keys():
                    raise Refusal("tool_choice.allowed_tools: not among the tools", field="tool_choice", why="invalid")
                ask.tools = {name: ask.tools[name] for name in names}
                ask.choice = "any" if mode == "required" else "auto"
            case _:
                raise Refusal("Invalid value for 'tool_choice'.", field="tool_choice", why="invalid")

    def _format(self, ask: Ask, body: dict[str, Any]) -> None:
        match body.get("response_format"):
            case None | {"type": "text"}:
                pass
            case {"type": "json_object", **rest} if not rest:
                if "json" not in json.dumps(body["messages"]).lower():
                    raise Refusal(
                        "'messages' must contain the word 'json' in some form, to use 'response_format' of type"
                        " 'json_object'.",
                        field="messages",
                    )
                ask.json_mode = True
            case {"type": "json_schema", "json_schema": dict(asked), **rest} if not rest:
                where = "response_format.json_schema"
                strict.fields(asked, where, "description strict", "name schema")
                strict.text(asked["name"], f"{where}.name", pattern=NAME)
                strict.object_root(asked["schema"], f"{where}.schema")
                if asked.get("strict"):
                    strict.openai_strict(asked["schema"], f"{where}.schema")
                ask.schema = asked["schema"]
            case _:
                raise Refusal("Invalid value for 'response_format'.", field="response_format", why="invalid")

    def _family(self, ask: Ask, body: dict[str, Any]) -> None:
        """Reasoning models refuse what they have no use for."""
        efforts, default, sampling, tools_need_none = openai_family(self.base_model(ask.model))
        if "reasoning_effort" in body and body["reasoning_effort"] not in efforts:
            code = "unsupported_value" if efforts else "unsupported_parameter"
            raise Refusal(f"Unsupported value: 'reasoning_effort' on {ask.model}.", code=code, field="reasoning_effort")
        if efforts and "max_tokens" in body:
            raise Refusal(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                code="unsupported_parameter",
                field="max_tokens",
            )
        effort = body.get("reasoning_effort", default)
        if sampling == "never" or (sampling == "with none" and effort != "none"):
            for name in [
                "temperature",
                "top_p",
                "stop",
                "presence_penalty",
                "frequency_penalty",
                "logprobs",
                "top_logprobs",
            ]:
                if body.get(name) not in (None, 1 if name in ("temperature", "top_p") else None):
                    raise Refusal(
                        f"Unsupported parameter: '{name}' is not supported with this model.",
                        code="unsupported_parameter",
                        field=name,
                    )
        if tools_need_none and ask.tools and effort != "none":
            raise Refusal(
                f"Function tools with reasoning_effort are not supported for {ask.model} in /v1/chat/completions."
                " Please use /v1/responses instead.",
                field="reasoning_effort",
            )

    def base_model(self, model: str) -> str:
        return model

    # ── answering ──

    async def complete(self, body: dict[str, Any]) -> Reply | Stream:
        run = Run(self.asked(body), self.billed)
        if run.plan.blocked:
            raise Refusal("The prompt was flagged by the content filter.", code="content_policy_violation")
        if body.get("stream"):
            return Stream(self._sse(run, body), cut_into=run.plan.dribble)
        plan = await run.whole()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": plan.whole_text or None,
            "refusal": None,
            "annotations": [],
        }
        if plan.end == "refusal":
            message |= {"content": None, "refusal": plan.whole_text}
        if plan.calls:
            message["tool_calls"] = [self.call(run, call, place) for place, call in enumerate(plan.calls)]
        message |= self.thought(plan.whole_thought)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish(run)}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [_logprob(piece) for piece in plan.text], "refusal": None}
        choices = [{**choice, **self.filtered(run), "index": index} for index in range(body.get("n") or 1)]
        return Reply(body={**self._head(run, "chat.completion"), "choices": choices, "usage": self.usage(run.usage)})

    async def _sse(self, run: Run, body: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks(run, body):
                yield _event({**self._head(run, "chat.completion.chunk"), **chunk})
            yield b"data: [DONE]\n\n"
        except Broken:
            error = {"message": "The server had an error while processing your request.", "type": "server_error"}
            yield _event({"error": {**error, "param": None, "code": None}})

    async def _chunks(self, run: Run, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        with_usage = (body.get("stream_options") or {}).get("include_usage", False)
        extra: dict[str, Any] = {"usage": None} if with_usage else {}
        for before in self.before(run):
            yield {**before, **extra}
        count, number = body.get("n") or 1, 0
        for index in range(count):
            yield {"choices": [_choice(index, {"role": "assistant", "content": "", "refusal": None})], **extra}
        async for kind, value in run.steps():
            for index in range(count):
                for delta in self.deltas(run, kind, value, number):
                    choice = _choice(index, delta)
                    if body.get("logprobs") and kind == "text":
                        choice["logprobs"] = {"content": [_logprob(value)], "refusal": None}
                    yield {"choices": [{**choice, **self.filtered(run)}], **extra}
            number += kind == "call"
        for index in range(count):
            yield {"choices": [{**_choice(index, {}, self.finish(run)), **self.filtered(run)}], **extra}
        if with_usage:
            yield {"choices": [], "usage": self.usage(run.usage)}

    def deltas(self, run: Run, kind: str, value: Any, number: int) -> list[dict[str, Any]]:
        """One step of the run as deltas: a call comes with its id and name first, its arguments in pieces."""
        if kind == "thought":
            return [thought] if (thought := self.thought(value)) else []
        if kind == "text":
            return [{"refusal" if run.plan.end == "refusal" else "content": value}]
        call = self.call(run, value, number)
        head = {"index": number, **call, "function": {"name": value.name, "arguments": ""}}
        cut = max(1, len(value.arguments) // 2)
        pieces = [value.arguments[:cut], value.arguments[cut:]]
        return [
            {"tool_calls": [head]},
            *({"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in pieces if piece),
        ]

    def call(self, run: Run, call: Call, place: int) -> dict[str, Any]:
        ident = f"call_{call.id}{place}"
        return {"id": ident, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def thought(self, text: str) -> dict[str, Any]:
        return {}  # this API keeps its reasoning to itself

    def before(self, run: Run) -> list[dict[str, Any]]:
        return []

    def filtered(self, run: Run) -> dict[str, Any]:
        return {}

    def finish(self, run: Run) -> str:
        return {"tools": "tool_calls", "max": "length", "safety": "content_filter"}.get(run.plan.end, "stop")

    def usage(self, usage: Usage) -> dict[str, Any]:
        return {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output + usage.thoughts,
            "total_tokens": usage.total,
            "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": usage.thoughts, "audio_tokens": 0},
        }

    def _head(self, run: Run, kind: str) -> dict[str, Any]:
        ident = f"chatcmpl-{Call(run.ask.model, run.ask.prompt).id}"
        model = self.base_model(run.ask.model)
        return {"id": ident, "object": kind, "created": 1767225600, "model": model, "system_fingerprint": "fp_0"}

    def embed(self, body: dict[str, Any]) -> Reply:
        strict.fields(body, "", "dimensions encoding_format user", "model input")
        strict.one_of(body.get("encoding_format", "float"), "encoding_format", ("float",))
        inputs = [body["input"]] if isinstance(body["input"], str) else strict.items(body["input"], "input")
        size = int(body.get("dimensions", 8))
        data = [
            {"object": "embedding", "index": place, "embedding": vector(strict.text(one, "input", empty=False), size)}
            for place, one in enumerate(inputs)
        ]
        counted = sum(len(one.split()) for one in inputs)
        usage = {"prompt_tokens": counted, "total_tokens": counted}
        return Reply(body={"object": "list", "data": data[::-1], "model": body["model"], "usage": usage})


class Compatible(OpenAI):
    """A small server that imitates the API: tells its reasoning, knows only the old `max_tokens` and `system`."""

    fields = FIELDS.replace(" max_completion_tokens", "").replace(" reasoning_effort", "").replace(" store", "")

    def roles(self) -> tuple[str, ...]:
        return ("system", "user", "assistant", "tool")

    def base_model(self, model: str) -> str:
        return "local"

    def thought(self, text: str) -> dict[str, Any]:
        return {"reasoning_content": text} if text else {}

    def refuse(self, refusal: Refusal) -> Reply:
        headers = {} if refusal.retry_after is None else {"retry-after": f"{refusal.retry_after:g}"}
        return Reply(refusal.status, {"detail": refusal.message}, headers)


# ── Azure ──

BLOCKED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your"
    " prompt and retry."
)
SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
VIOLENT = {
    **SAFE,
    "violence": {"filtered": True, "severity": "high"},
    "jailbreak": {"filtered": False, "detected": False},
}


class Azure(OpenAI):
    """Deployments in the path with a dated api-version, or `/openai/v1` with the deployment as model; both APIs.

    deployments: name of a deployment and the model behind it; a name that is not here is its own model.
    Takes the `api-key` header, or a bearer token that its `/{tenant}/oauth2/v2.0/token` gave out.
    """

    deployments: dict[str, str] = {"chat-main": "gpt-4o"}  # noqa: RUF012 - a test may replace it on an instance
    classic = re.compile(r"/openai/deployments/(?P<deployment>[^/]+)(?P<operation>/chat/completions|/embeddings)")
    client = ("client-id", "client-secret")
    token = "entra-token"

    def __init__(self) -> None:
        super().__init__()
        self.responses = OpenAIResponses()
        self.responses.billed = self.billed

    async def respond(self, request: Request) -> Reply | Stream:
        if re.fullmatch(r"/[^/]+/oauth2/v2\.0/token", request.path):
            return self.entra(request)
        self.authorize(request)
        body = _object(request)
        if found := self.classic.fullmatch(request.path):
            self._version(request, r"20\d\d-\d\d-\d\d(-preview)?")
            operation, body = found["operation"], {**body, "model": found["deployment"]}
        elif request.path == "/openai/responses":
            self._version(request, r"(2025-03-01|2025-0[4-9]-\d\d|202[6-9]-\d\d-\d\d)-preview")
            operation = "/responses"
        elif request.path.startswith("/openai/v1/"):
            operation = request.path.removeprefix("/openai/v1")
        else:
            raise Refusal("Resource not found", status=404, code="404")
        match operation:
            case "/chat/completions":
                return await self.complete(body)
            case "/embeddings":
                return self.embed(body)
            case "/responses":
                return await self.responses.create({**body, "model": self.base_model(body.get("model", ""))})
        raise Refusal("Resource not found", status=404, code="404")

    def _version(self, request: Request, pattern: str) -> None:
        if not re.fullmatch(pattern, request.query.get("api-version", "")):
            raise Refusal("Resource not found", status=404, code="404")

    def authorize(self, request: Request) -> None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.headers.get("api-key") != self.api_key and bearer != self.token:
            raise Refusal(
                "Access denied due to invalid subscription key or wrong API endpoint.", status=401, code="401"
            )

    def entra(self, request: Request) -> Reply:
        form = dict(parse_qsl(request.body.decode()))
        scopes = ("https://cognitiveservices.azure.com/.default", "https://ai.azure.com/.default")
        good = form.get("grant_type") == "client_credentials" and form.get("scope") in scopes
        if not good or (form.get("client_id"), form.get("client_secret")) != self.client:
            return Reply(401, {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."})
        return Reply(body={"token_type": "Bearer", "expires_in": 3599, "access_token": self.token})

    def base_model(self, model: str) -> str:
        return self.deployments.get(model, model)

    def file(self, ask: Ask, file: dict[str, Any], where: str) -> None:
        raise Refusal("Invalid content type: 'file' is not supported.", field=f"{where}.type", why="invalid")

    def refuse(self, refusal: Refusal) -> Reply:
        if refusal.code == "content_policy_violation":
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": VIOLENT}
            error = {"message": BLOCKED, "type": None, "param": "prompt", "code": "content_filter", "status": 400}
            return Reply(400, {"error": {**error, "innererror": inner}})
        if refusal.code in ("401", "404"):
            return Reply(refusal.status, {"error": {"code": refusal.code, "message": refusal.message}})
        return super().refuse(refusal)

    def before(self, run: Run) -> list[dict[str, Any]]:
        return [{"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}]}]

    def filtered(self, run: Run) -> dict[str, Any]:
        return {"content_filter_results": VIOLENT if run.plan.end == "safety" else SAFE}


# ── Gemini's compatible endpoint ──


class GeminiOpenAI(OpenAI):
    """`/v1beta/openai`: errors come as a list, calls whole and with index 0, signatures in `extra_content`."""

    base = "/v1beta/openai"
    fields = FIELDS.replace(" logit_bias", "").replace(" store", "") + " extra_body"
    mark = b"gemini-signature-"

    def authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            raise Refusal("API key not valid. Please pass a valid API key.")

    def refuse(self, refusal: Refusal) -> Reply:
        status, details = refusal.status, []
        if refusal.retry_after is not None:
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refusal.retry_after:g}s"}]
        message = refusal.message
        if refusal.why == "unknown":
            message = f'Invalid JSON payload received. Unknown name "{refusal.field}": Cannot find field.'
        error = {"code": status, "message": message, "status": STATUS_WORDS.get(status, "UNKNOWN"), "details": details}
        return Reply(status, [{"error": error}])

    def base_model(self, model: str) -> str:
        return "gpt-4o"  # no reasoning model of OpenAI's: it takes sampling parameters

    def _family(self, ask: Ask, body: dict[str, Any]) -> None:
        google = body.get("extra_body", {}).get("google", {})
        if "reasoning_effort" in body:
            strict.one_of(body["reasoning_effort"], "reasoning_effort", ["none", "minimal", "low", "medium", "high"])
            if "thinking_config" in google:
                raise Refusal("Expected one of either `reasoning_effort` or custom `thinking_config`; found both.")

    def call_fields(self, call: Any, where: str) -> None:
        strict.fields(call, where, "index extra_content", "id type function")
        google = call.get("extra_content", {}).get("google", {})
        signature = google.get("thought_signature")
        if signature is None or signature in DUMMY:
            return
        if not decoded(signature, "thought_signature", url_safe=True).startswith(self.mark):
            raise Refusal("Corrupted thought signature.")

    def _assistant(self, ask: Ask, message: dict[str, Any], where: str) -> list[str]:
        ids = super()._assistant(ask, message, where)
        if ids and re.match(r"gemini-[3-9]", ask.model) and not message["tool_calls"][0].get("extra_content"):
            raise Refusal("Function call is missing a thought_signature in functionCall parts.")
        return ids

    def deltas(self, run: Run, kind: str, value: Any, number: int) -> list[dict[str, Any]]:
        if kind == "call":
            return [{"tool_calls": [{"index": 0, **self.call(run, value, number)}]}]
        return super().deltas(run, kind, value, number)

    def call(self, run: Run, call: Call, place: int) -> dict[str, Any]:
        made = super().call(run, call, place)
        if place == 0 and re.match(r"gemini-[3-9]", run.ask.model):
            signature = base64.b64encode(self.mark + call.id.encode()).decode()
            made["extra_content"] = {"google": {"thought_signature": signature}}
        return made

    def finish(self, run: Run) -> str:
        return {"max": "length", "safety": "content_filter"}.get(run.plan.end, "stop")

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Thoughts are in the total only."""
        return {"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.total}

    def _head(self, run: Run, kind: str) -> dict[str, Any]:
        return {**super()._head(run, kind), "model": run.ask.model}


def _object(request: Request) -> dict[str, Any]:
    if not isinstance(request.json, dict):
        raise Refusal("We could not parse the JSON body of your request.", status=400)
    return request.json


def _choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _logprob(piece: str) -> dict[str, Any]:
    one = {"token": piece, "logprob": -0.1, "bytes": list(piece.encode())}
    return {**one, "top_logprobs": [one]}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
