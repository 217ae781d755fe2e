"""The Gemini Developer API as Google serves it: proto-JSON in, pretty JSON or CRLF events out, Google's errors."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.script import (
    Ask,
    Broken,
    Call,
    Media,
    Plan,
    Refusal,
    Run,
    Usage,
    decoded,
    vector,
)  # fmt: skip

STATUS_WORDS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip
RPC = "type.googleapis.com/google.rpc"
# Either form is what clients send for calls that did not come from Gemini.
DUMMY = {"skip_thought_signature_validator", base64.b64encode(b"skip_thought_signature_validator").decode()}

# Messages by field, as the service reads JSON: names in either spelling, anything else is unknown.
# "any" is the user's own JSON; a leading * is a list; a word in lower case is a scalar.
MESSAGES: dict[str, dict[str, str]] = {
    "Generate": {
        "model": "string", "contents": "*Content", "systemInstruction": "Content", "tools": "*Tool",
        "toolConfig": "ToolConfig", "safetySettings": "*SafetySetting", "generationConfig": "GenerationConfig",
        "cachedContent": "string", "serviceTier": "string", "store": "bool", "continuationToken": "bytes",
    },
    "Content": {"role": "string", "parts": "*Part"},
    "Part": {
        "text": "string", "inlineData": "Blob", "fileData": "FileData", "functionCall": "FunctionCall",
        "functionResponse": "FunctionResponse", "executableCode": "any", "codeExecutionResult": "any",
        "toolCall": "any", "toolResponse": "any", "thought": "bool", "thoughtSignature": "bytes",
        "videoMetadata": "any", "mediaResolution": "any", "partMetadata": "any",
    },
    "Blob": {"mimeType": "string", "data": "bytes", "displayName": "string"},
    "FileData": {"fileUri": "string", "mimeType": "string", "displayName": "string"},
    "FunctionCall": {"id": "string", "name": "string", "args": "any"},
    "FunctionResponse": {
        "id": "string", "name": "string", "response": "any", "parts": "any", "willContinue": "bool",
        "scheduling": "string",
    },
    "Tool": {
        "functionDeclarations": "*FunctionDeclaration", "googleSearch": "any", "googleSearchRetrieval": "any",
        "codeExecution": "any", "urlContext": "any", "fileSearch": "any", "googleMaps": "any", "computerUse": "any",
        "mcpServers": "any",
    },
    "FunctionDeclaration": {
        "name": "string", "description": "string", "parameters": "Schema", "parametersJsonSchema": "any",
        "response": "Schema", "responseJsonSchema": "any", "behavior": "string",
    },
    "ToolConfig": {
        "functionCallingConfig": "FunctionCallingConfig", "retrievalConfig": "any",
        "includeServerSideToolInvocations": "bool",
    },
    "FunctionCallingConfig": {"mode": "string", "allowedFunctionNames": "*string"},
    "SafetySetting": {"category": "string", "threshold": "string"},
    "GenerationConfig": {
        "temperature": "number", "topP": "number", "topK": "number", "candidateCount": "number",
        "maxOutputTokens": "number", "stopSequences": "*string", "responseMimeType": "string",
        "responseSchema": "Schema", "responseJsonSchema": "any", "_responseJsonSchema": "any", "seed": "number",
        "presencePenalty": "number", "frequencyPenalty": "number", "responseLogprobs": "bool", "logprobs": "number",
        "thinkingConfig": "ThinkingConfig", "responseModalities": "*string", "speechConfig": "any",
        "imageConfig": "any", "mediaResolution": "string", "enableEnhancedCivicAnswers": "bool",
    },
    "ThinkingConfig": {"includeThoughts": "bool", "thinkingBudget": "number", "thinkingLevel": "string"},
    "Schema": {
        "type": "string", "format": "string", "title": "string", "description": "string", "nullable": "bool",
        "enum": "*string", "items": "Schema", "minItems": "number", "maxItems": "number", "minLength": "number",
        "maxLength": "number", "minProperties": "number", "maxProperties": "number", "properties": "{Schema",
        "required": "*string", "minimum": "number", "maximum": "number", "pattern": "string", "example": "any",
        "default": "any", "anyOf": "*Schema", "propertyOrdering": "*string", "additionalProperties": "any",
        "defs": "{Schema", "ref": "string",
    },
    "Count": {"contents": "*Content", "generateContentRequest": "Generate"},
    "Embed": {
        "model": "string", "content": "Content", "taskType": "string", "title": "string",
        "outputDimensionality": "number",
    },
    "BatchEmbed": {"requests": "*Embed"},
}  # fmt: skip

SCHEMA_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"}
FINISH = {"stop": "STOP", "stop_sequence": "STOP", "tools": "STOP", "max": "MAX_TOKENS", "safety": "SAFETY",
          "refusal": "SAFETY", "empty": "STOP"}  # fmt: skip
SAFE = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "NEGLIGIBLE"}]
UNSAFE = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]


class Gemini(Upstream):
    """api_key: the one it accepts. Signatures it hands out start with its own mark, and it takes no others."""

    api_key = "upstream-key"
    messages = MESSAGES
    mark = b"gemini-signature-"
    models = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-pro-preview", "gemini-embedding-001")
    paths = re.compile(r"/(?P<version>v1|v1beta|v1alpha)/models/(?P<model>[^/:]+):(?P<action>\w+)")

    async def respond(self, request: Request) -> Reply | Stream:
        self.authorize(request)
        if request.method == "GET":
            return self.listing(request)
        match = self.paths.fullmatch(request.path)
        if not match or request.method != "POST":
            raise Refusal("Not found.", status=404)
        model, action = match["model"], match["action"]
        if not isinstance(request.json, dict):
            raise Refusal("Invalid JSON payload received. Expected an object.", why="invalid")
        match action:
            case "generateContent" | "streamGenerateContent":
                body = self.read("Generate", request.json)
                run = Run(self.asked(model, body), self.billed)
                if action == "generateContent":
                    return await self.unary(run, body)
                return self.stream(run, body, sse=request.query.get("alt") == "sse")
            case "countTokens":
                return self.count(model, request.json)
            case "embedContent":
                return Reply(body={"embedding": {"values": self.embedded(model, self.read("Embed", request.json))}})
            case "batchEmbedContents":
                asked = self.read("BatchEmbed", request.json)["requests"]
                return Reply(body={"embeddings": [{"values": self.embedded(model, one)} for one in asked]})
        raise Refusal(
            f"models/{model} is not found for API version v1beta, or is not supported for {action}.", status=404
        )

    def authorize(self, request: Request) -> None:
        key = request.headers.get("x-goog-api-key") or request.query.get("key")
        if not key:
            raise Refusal(
                "Method doesn't allow unregistered callers (callers without established identity).", status=403
            )
        if key != self.api_key:
            raise Refusal("API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")

    def refuse(self, refusal: Refusal) -> Reply:
        status = refusal.status
        error: dict[str, Any] = {
            "code": status,
            "message": refusal.message,
            "status": STATUS_WORDS.get(status, "UNKNOWN"),
        }
        details: list[dict[str, Any]] = []
        if refusal.why:
            violation = {"field": refusal.field, "description": refusal.message}
            details.append({"@type": f"{RPC}.BadRequest", "fieldViolations": [violation]})
        if refusal.code == "API_KEY_INVALID":
            details.append({"@type": f"{RPC}.ErrorInfo", "reason": refusal.code, "domain": "googleapis.com"})
        if refusal.code == "context":
            error["message"] = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        if status == 429:
            metric = "generativelanguage.googleapis.com/generate_content_requests"
            quota = {
                "quotaMetric": metric,
                "quotaId": "GenerateRequestsPerMinutePerProjectPerModel",
                "quotaValue": "10",
            }
            details.append({"@type": f"{RPC}.QuotaFailure", "violations": [quota]})
        if refusal.retry_after is not None:
            details.append({"@type": f"{RPC}.RetryInfo", "retryDelay": f"{refusal.retry_after:g}s"})
        if details:
            error["details"] = details
        return Reply(status, pretty({"error": error}))

    # ── reading ──

    def read(self, message: str, value: Any) -> Any:
        return self._message(message, value, "")

    def _message(self, kind: str, value: Any, where: str) -> Any:
        """The value with every known name in camelCase. Raises Refusal in Google's words."""
        if kind.startswith("*"):
            listed = value if isinstance(value, list) else [value]
            return [self._message(kind[1:], one, f"{where}[{n}]") for n, one in enumerate(listed) if one is not None]
        if kind.startswith("{"):
            return {name: self._message(kind[1:], one, f"{where}.{name}") for name, one in value.items()}
        if kind == "any":
            return value
        if kind not in self.messages:
            return _scalar(kind, value, where)
        if not isinstance(value, dict):
            raise Refusal(f"Invalid value at '{where}' (type.googleapis.com/{kind})", field=where, why="invalid")
        known = self.messages[kind]
        result: dict[str, Any] = {}
        for name, one in value.items():
            camel = re.sub(r"(?<=[a-z0-9])_([a-z])", lambda found: found[1].upper(), name)
            if camel not in known:
                at = f" at '{_snake(where)}'" if where else ""
                raise Refusal(
                    f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.',
                    field=_snake(where),
                    why="unknown",
                )
            if one is not None:
                result[camel] = self._message(known[camel], one, f"{where}.{camel}" if where else camel)
        return result

    def asked(self, model: str, body: dict[str, Any]) -> Ask:
        config = body.get("generationConfig", {})
        ask = Ask(model, tools=self._tools(body), stop=config.get("stopSequences", []))
        if not body.get("contents"):
            raise Refusal("* GenerateContentRequest.contents: contents is not specified\n", why="missing")
        ask.system = "\n".join(part.get("text", "") for part in body.get("systemInstruction", {}).get("parts", []))
        self._signed(model, body["contents"])
        self._paired(body["contents"])
        for content in body["contents"]:
            ask.turn(self._role(content))
            self._content(ask, content)
        self._configured(model, ask, body, config)
        return ask

    def _role(self, content: dict[str, Any]) -> str:
        role = content.get("role", "user").lower()
        if role not in ("user", "model", "function"):
            raise Refusal("Please use a valid role: user, model.")
        return "user" if role == "function" else role

    def _content(self, ask: Ask, content: dict[str, Any]) -> None:
        results: list[str] = []
        for part in content.get("parts", []):
            data = [
                name for name in part if name in ("text", "inlineData", "fileData", "functionCall", "functionResponse")
            ]
            if len(data) > 1:
                raise Refusal("Invalid value at 'contents.parts' (oneof), oneof field 'data' is already set.")
            if (
                not data
                and "thoughtSignature" not in part
                and not part.keys() & {"executableCode", "codeExecutionResult"}
            ):
                raise Refusal("Unable to submit request because it must have a text parameter or other data.")
            if "text" in part:
                if self._role(content) == "user" and part["text"]:
                    ask.hear(part["text"])
                else:
                    ask.texts.append(part["text"])
            elif blob := part.get("inlineData"):
                if not blob.get("mimeType"):
                    raise Refusal("Unable to submit request because it has an empty mimeType parameter.")
                decoded(blob.get("data"), "contents.parts.inline_data.data", url_safe=True)
                ask.media.append(Media(blob["mimeType"], blob["data"]))
            elif file := part.get("fileData"):
                ask.media.append(Media(file.get("mimeType", "application/octet-stream"), file["fileUri"]))
            elif response := part.get("functionResponse"):
                if not isinstance(response.get("response"), dict):
                    raise Refusal(
                        "Invalid value at 'function_response.response' (type.googleapis.com/google.protobuf.Struct)"
                    )
                results.append(json.dumps(response["response"], sort_keys=True))
        ask.learn(results)

    def _tools(self, body: dict[str, Any]) -> dict[str, Any]:
        tools: dict[str, Any] = {}
        for tool in body.get("tools", []):
            for declared in tool.get("functionDeclarations", []):
                name = declared.get("name", "")
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}", name):
                    raise Refusal(
                        "Invalid function name. Must start with a letter or an underscore.",
                        field="tools.function_declarations.name",
                    )
                if name in tools:
                    raise Refusal(f"Duplicate function declaration found: {name}")
                if "parameters" in declared and "parametersJsonSchema" in declared:
                    raise Refusal("Only one of parameters and parameters_json_schema may be set.")
                schema = declared.get("parameters", declared.get("parametersJsonSchema", {"type": "OBJECT"}))
                _gemini_schema(declared.get("parameters"), f"tools.function_declarations.{name}.parameters")
                tools[name] = schema
        return tools

    def _configured(self, model: str, ask: Ask, body: dict[str, Any], config: dict[str, Any]) -> None:
        calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
        mode, names = calling.get("mode", "AUTO").upper(), calling.get("allowedFunctionNames", [])
        if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
            raise Refusal(
                f"Invalid value at 'tool_config.function_calling_config.mode' (…Mode), \"{mode}\"", why="invalid"
            )
        if names and mode not in ("ANY", "VALIDATED"):
            raise Refusal("Function calling mode should be ANY when allowed_function_names is set.")
        if unknown := [name for name in names if name not in ask.tools]:
            raise Refusal(f"Unknown function name in allowed_function_names: {unknown[0]}")
        if names:
            ask.tools = {name: ask.tools[name] for name in names}
        ask.choice = {"ANY": "any", "NONE": "none"}.get(mode, "auto")
        thinking = config.get("thinkingConfig", {})
        if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
            raise Refusal("You can only set only one of thinking budget and thinking level.")
        if "thinkingLevel" in thinking and model.startswith(("gemini-2", "gemini-1")):
            raise Refusal("Thinking level is not supported for this model.")
        if thinking and model.startswith(("gemini-2.0", "gemini-1", "gemma")):
            raise Refusal("Thinking is not supported for this model.")
        if model.startswith("gemini-2.5-pro") and thinking.get("thinkingBudget") == 0:
            raise Refusal("Budget 0 is invalid. This model only works in thinking mode.")
        schema = config.get("responseSchema", config.get("responseJsonSchema", config.get("_responseJsonSchema")))
        mime = config.get("responseMimeType", "text/plain")
        if schema is not None and mime not in ("application/json", "text/x.enum"):
            raise Refusal("Function calling or structured output needs response_mime_type 'application/json'.")
        _gemini_schema(config.get("responseSchema"), "generation_config.response_schema")
        if len(config.get("stopSequences", [])) > 5:
            raise Refusal("The number of stop sequences must not exceed 5.")
        if "logprobs" in config and not config.get("responseLogprobs"):
            raise Refusal("logprobs requires response_logprobs to be true.")
        ask.schema, ask.json_mode, ask.max_tokens = (
            schema,
            mime == "application/json",
            _whole(config.get("maxOutputTokens")),
        )

    def _paired(self, contents: list[dict[str, Any]]) -> None:
        """Every call turn is followed by as many responses as it has calls."""
        open_calls = 0
        for content in contents:
            parts = content.get("parts", [])
            responses = sum("functionResponse" in part for part in parts)
            if self._role(content) == "user":
                if (open_calls and responses != open_calls) or (responses and not open_calls):
                    raise Refusal(
                        "Please ensure that the number of function response parts is equal to the number of function"
                        " call parts of the function call turn."
                    )
                open_calls = 0
            else:
                open_calls += sum("functionCall" in part for part in parts)
        if open_calls:
            raise Refusal("Please ensure that function call turn comes immediately before a function response turn.")

    def _signed(self, model: str, contents: list[dict[str, Any]]) -> None:
        """Signatures are its own or the documented dummy; from generation 3 on each step of the turn needs one."""
        needed = re.match(r"gemini-([3-9])", model)
        current = 0
        for place, content in enumerate(contents):
            if self._role(content) == "user" and not all(
                "functionResponse" in part for part in content.get("parts", [])
            ):
                current = place
        for place, content in enumerate(contents):
            calls = [part for part in content.get("parts", []) if "functionCall" in part]
            for part in content.get("parts", []):
                if "thoughtSignature" in part and not self._is_own(part["thoughtSignature"]):
                    raise Refusal("Corrupted thought signature.")
            if needed and place > current and calls and "thoughtSignature" not in calls[0]:
                name = calls[0]["functionCall"].get("name")
                raise Refusal(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools to"
                    f" work correctly, and missing thought_signature may lead to degraded model performance. {name}"
                )

    def _is_own(self, signature: str) -> bool:
        if signature in DUMMY:
            return True
        return decoded(signature, "thought_signature", url_safe=True).startswith(self.mark)

    # ── answering ──

    async def unary(self, run: Run, body: dict[str, Any]) -> Reply:
        plan = await run.whole()
        if plan.blocked:
            return Reply(body=pretty(self._blocked(run)))
        thoughts = body.get("generationConfig", {}).get("thinkingConfig", {}).get("includeThoughts", False)
        parts: list[dict[str, Any]] = []
        if plan.thoughts and thoughts:
            parts.append({"text": plan.whole_thought, "thought": True})
        if plan.text:
            parts.append({"text": plan.whole_text})
        bad = not all(call.well_formed for call in plan.calls)
        parts += [] if bad else [self._call(run, call, place) for place, call in enumerate(plan.calls)]
        if parts and not plan.calls and self._signs(run):
            parts[-1] = {**parts[-1], "thoughtSignature": self._signature(run, 99)}
        candidate = self._candidate(run, parts, finish="MALFORMED_FUNCTION_CALL" if bad else FINISH[plan.end])
        config = body.get("generationConfig", {})
        if config.get("responseLogprobs"):
            candidate |= _logprobs(plan)
        copies = [{**candidate, "index": index} for index in range(int(config.get("candidateCount", 1)))]
        return Reply(body=pretty(self._answer_with(run, copies)))

    def stream(self, run: Run, body: dict[str, Any], *, sse: bool) -> Stream:
        pieces = self._sse(run, body) if sse else self._array(run, body)
        content_type = "text/event-stream" if sse else "application/json; charset=UTF-8"
        return Stream(pieces, content_type, cut_into=run.plan.dribble)

    async def _sse(self, run: Run, body: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks(run, body):
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n".encode()
        except Broken:
            yield b"data: " + compact(_broken()) + b"\r\n\r\n"

    async def _array(self, run: Run, body: dict[str, Any]) -> AsyncIterator[bytes]:
        before = b"["
        try:
            async for chunk in self._chunks(run, body):
                yield before + pretty(chunk)
                before = b"\n,\r\n"
        except Broken:
            yield before + pretty(_broken())
        yield b"\n]\n"

    async def _chunks(self, run: Run, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        plan = run.plan
        thoughts = body.get("generationConfig", {}).get("thinkingConfig", {}).get("includeThoughts", False)
        number, finish = 0, FINISH[plan.end]
        async for kind, value in run.steps():
            if plan.blocked:
                continue
            if kind == "thought" and thoughts:
                yield self._answer_with(run, [self._candidate(run, [{"text": value, "thought": True}])])
            elif kind == "text":
                yield self._answer_with(run, [self._candidate(run, [{"text": value}])])
            elif kind == "call" and not value.well_formed:
                finish = "MALFORMED_FUNCTION_CALL"
            elif kind == "call":
                yield self._answer_with(run, [self._candidate(run, [self._call(run, value, number)])])
                number += 1
        if plan.blocked:
            yield self._blocked(run)
            return
        last: dict[str, Any] = {"text": ""}
        if self._signs(run) and not plan.calls:
            last["thoughtSignature"] = self._signature(run, 99)
        empty = plan.end in ("safety", "empty") or finish == "MALFORMED_FUNCTION_CALL"
        yield self._answer_with(run, [self._candidate(run, [] if empty else [last], finish)])

    def _candidate(self, run: Run, parts: list[dict[str, Any]], finish: str = "") -> dict[str, Any]:
        candidate: dict[str, Any] = (
            {"content": {"parts": parts, "role": "model"}} if parts else {"content": {"role": "model"}}
        )
        if finish:
            candidate["finishReason"] = finish
        if finish == "MALFORMED_FUNCTION_CALL":
            candidate["finishMessage"] = f"Malformed function call: {run.plan.calls[0].arguments}"
        candidate["index"] = 0
        if finish == "SAFETY":
            candidate["safetyRatings"] = UNSAFE
        return candidate

    def _answer_with(self, run: Run, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "candidates": candidates,
            "usageMetadata": usage_metadata(run.usage),
            "modelVersion": run.ask.model,
            "responseId": response_id(run.ask),
        }

    def _blocked(self, run: Run) -> dict[str, Any]:
        return {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": UNSAFE},
            "usageMetadata": {"promptTokenCount": run.usage.input, "totalTokenCount": run.usage.input},
            "modelVersion": run.ask.model,
            "responseId": response_id(run.ask),
        }

    def _call(self, run: Run, call: Call, place: int) -> dict[str, Any]:
        part: dict[str, Any] = {"functionCall": {"name": call.name, "args": call.args}}
        if place == 0 and (self._signs(run) or run.plan.thoughts):
            part["thoughtSignature"] = self._signature(run, place)
        return part

    def _signs(self, run: Run) -> bool:
        return bool(re.match(r"gemini-[3-9]", run.ask.model))

    def _signature(self, run: Run, place: int) -> str:
        return base64.b64encode(self.mark + f"{response_id(run.ask)}-{place}".encode()).decode()

    # ── the other methods ──

    def count(self, model: str, value: Any) -> Reply:
        body = self.read("Count", value)
        if "contents" in body and "generateContentRequest" in body:
            raise Refusal("Only one of contents and generate_content_request may be set.")
        ask = self.asked(model, body.get("generateContentRequest", body))
        counted = {"totalTokens": ask.prompt_tokens}
        return Reply(
            body=pretty(counted | {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": ask.prompt_tokens}]})
        )

    def embedded(self, model: str, one: dict[str, Any]) -> list[float]:
        if one.get("model", f"models/{model}") not in (f"models/{model}", model):
            raise Refusal("The model of a request must be the model of the batch.")
        text = "".join(part.get("text", "") for part in one.get("content", {}).get("parts", []))
        if not text:
            raise Refusal("content is empty", field="content", why="missing")
        return vector(text, int(one.get("outputDimensionality", 8)))

    def listing(self, request: Request) -> Reply:
        name = request.path.partition("/models")[2].strip("/")
        known = {one: _model(one) for one in self.models}
        if not name:
            return Reply(body=pretty({"models": list(known.values())}))
        if name not in known:
            raise Refusal(f"Model is not found: models/{name} for api version v1beta", status=404)
        return Reply(body=pretty(known[name]))


def pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def usage_metadata(usage: Usage) -> dict[str, Any]:
    """Zero counters are absent; thoughts are not in candidates; the prompt includes what was cached."""
    counted = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.output,
        "totalTokenCount": usage.total,
        "cachedContentTokenCount": usage.cached,
        "thoughtsTokenCount": usage.thoughts,
    }
    return {name: count for name, count in counted.items() if count} | {
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}]
    }


def response_id(ask: Ask) -> str:
    return Call(ask.model, ask.prompt).id


def _broken() -> dict[str, Any]:
    return {
        "error": {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}
    }


def _scalar(kind: str, value: Any, where: str) -> Any:
    good = {
        "string": isinstance(value, str | int),  # enums may be numbers
        "bool": isinstance(value, bool),
        "bytes": isinstance(value, str),
        "number": isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"-?\d+", value)),
    }[kind]
    if not good:
        raise Refusal(
            f"Invalid value at '{_snake(where)}' (TYPE_{kind.upper()}), {json.dumps(value)}",
            field=_snake(where),
            why="invalid",
        )
    return value


def _gemini_schema(schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        return
    kind = str(schema.get("type", "TYPE_UNSPECIFIED")).upper()
    if kind not in SCHEMA_TYPES:
        raise Refusal(f"Invalid value at '{where}.type' (Type), \"{schema['type']}\"", field=where, why="invalid")
    if kind == "ARRAY" and not schema.get("items"):
        raise Refusal(f"* GenerateContentRequest.{where}.items: missing field.\n")
    for name in schema.get("required", []):
        if name not in schema.get("properties", {}):
            raise Refusal(f"* GenerateContentRequest.{where}.required[0]: property is not defined\n")
    for name, below in schema.get("properties", {}).items():
        _gemini_schema(below, f"{where}.properties[{name}]")
    _gemini_schema(schema.get("items"), f"{where}.items")


def _logprobs(plan: Plan) -> dict[str, Any]:
    chosen = [{"token": piece, "tokenId": place, "logProbability": -0.1} for place, piece in enumerate(plan.text)]
    return {
        "avgLogprobs": -0.1,
        "logprobsResult": {"chosenCandidates": chosen, "topCandidates": [{"candidates": [one]} for one in chosen]},
    }


def _model(name: str) -> dict[str, Any]:
    methods = ["embedContent", "batchEmbedContents"] if "embedding" in name else ["generateContent", "countTokens"]
    return {
        "name": f"models/{name}", "version": "001", "displayName": name, "inputTokenLimit": 1048576,
        "outputTokenLimit": 65536, "supportedGenerationMethods": methods,
    }  # fmt: skip


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _snake(where: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", where)
