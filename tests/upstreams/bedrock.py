"""AWS Bedrock's runtime: signed requests, Claude's own body by InvokeModel, everybody's by Converse, binary frames."""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.upstreams import strict
from tests.upstreams.anthropic import Messages, without_version
from tests.upstreams.asgi import Reply, Request, Stream, Upstream
from tests.upstreams.families import claude
from tests.upstreams.script import Ask, Broken, Call, Media, Plan, Refusal, Run, Usage, decoded

EXCEPTIONS = {
    400: "ValidationException", 401: "UnrecognizedClientException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
    408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
    500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip
STOPS = {"stop": "end_turn", "stop_sequence": "stop_sequence", "tools": "tool_use", "max": "max_tokens",
         "safety": "content_filtered", "refusal": "content_filtered", "empty": "end_turn"}  # fmt: skip
FRAMES = "application/vnd.amazon.eventstream"
NAME = r"[a-zA-Z0-9_-]{1,64}"
IMAGE_FORMATS = ("png", "jpeg", "gif", "webp")
DOCUMENT_FORMATS = ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md")
SIGNED = "EqQB"


class Bedrock(Upstream):
    """credentials, bearer: what it accepts. A signature is computed again from what arrived, and compared."""

    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    bearer = "bedrock-api-key"
    region = "us-east-1"
    operations = re.compile(r"/model/(?P<model>[^/]+)/(?P<operation>[a-z-]+)")

    async def respond(self, request: Request) -> Reply | Stream:
        self.authorize(request)
        found = self.operations.fullmatch(request.raw_path)
        if request.method != "POST" or not found:
            raise Refusal("Unknown operation", status=404, code="UnknownOperationException")
        if not isinstance(request.json, dict):
            raise Refusal("The request body could not be parsed as JSON.", code="SerializationException")
        model, body = unquote(found["model"]), request.json
        if found["operation"] != "count-tokens":  # counting is by the model's own id
            self._reachable(model)
        match found["operation"]:
            case "invoke":
                messages = Messages(model, without_version(body, r"bedrock-2023-05-31"), self)
                run = messages.run()
                return Reply(body=messages.message(run, await run.whole()), headers={"x-amzn-requestid": "request-1"})
            case "invoke-with-response-stream":
                messages = Messages(model, without_version(body, r"bedrock-2023-05-31"), self)
                return self._frames(self._invoked(messages, run := messages.run()), run)
            case "converse":
                converse = Converse(model, body)
                run = Run(converse.ask, self.billed)
                return Reply(body=converse.answer(run, await run.whole()), headers={"x-amzn-requestid": "request-1"})
            case "converse-stream":
                converse = Converse(model, body)
                return self._frames(converse.frames(run := Run(converse.ask, self.billed)), run)
            case "count-tokens":
                return self.count(model, body)
        raise Refusal("Unknown operation", status=404, code="UnknownOperationException")

    def _frames(self, pieces: AsyncIterator[bytes], run: Run) -> Stream:
        return Stream(pieces, FRAMES, {"x-amzn-requestid": "request-1"}, cut_into=run.plan.dribble)

    def _reachable(self, model: str) -> None:
        """Newer models only answer through an inference profile."""
        if re.match(r"anthropic\.claude-(sonnet|opus|haiku)-[4-9]", model):
            raise Refusal(
                f"Invocation of model ID {model} with on-demand throughput isn't supported. Retry your request with the ID"
                " or ARN of an inference profile that contains this model."
            )

    # ── who asks ──

    def authorize(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("Bearer "):
            if authorization != f"Bearer {self.bearer}":
                raise Refusal("Authentication failed: Please make sure your API Key is valid.", status=403)
            return
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, ?"
            r"SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})",
            authorization,
        )
        if not found:
            raise Refusal("Missing Authentication Token", status=403, code="MissingAuthenticationTokenException")
        if found["key"] != self.credentials.access_key:
            raise Refusal(
                "The security token included in the request is invalid.", status=403, code="UnrecognizedClientException"
            )
        if (found["region"], found["service"]) != (self.region, "bedrock"):
            raise Refusal("Credential should be scoped to a valid region and service.", status=403, code=BAD_SIGNATURE)
        names = found["headers"].split(";")
        if "host" not in names or "x-amz-date" not in names:
            raise Refusal("Host and X-Amz-Date must be signed.", status=403, code=BAD_SIGNATURE)
        if (token := self.credentials.token) and request.headers.get("x-amz-security-token") != token:
            raise Refusal(
                "The security token included in the request is expired", status=403, code="ExpiredTokenException"
            )
        self._recent(request.headers["x-amz-date"])
        if self._signature(request, names) != found["signature"]:
            raise Refusal(
                "The request signature we calculated does not match the signature you provided.",
                status=403,
                code=BAD_SIGNATURE,
            )

    def _signature(self, request: Request, names: list[str]) -> str:
        query = f"?{'&'.join(f'{k}={v}' for k, v in request.query.items())}" if request.query else ""
        signed = AWSRequest(
            method=request.method,
            url=f"http://{request.headers['host']}{request.raw_path}{query}",
            headers={name: request.headers.get(name, "") for name in names},
            data=request.body,
        )
        signed.context["timestamp"] = request.headers["x-amz-date"]
        signer = SigV4Auth(self.credentials, "bedrock", self.region)
        return str(signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed))

    def _recent(self, date: str) -> None:
        made = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs((datetime.now(UTC) - made).total_seconds()) > 300:
            raise Refusal("Signature expired", status=403, code=BAD_SIGNATURE)

    def refuse(self, refusal: Refusal) -> Reply:
        kind = refusal.code if refusal.code[:1].isupper() else EXCEPTIONS.get(refusal.status, "InternalServerException")
        message = refusal.message
        if refusal.code == "context":
            message = "Input is too long for requested model."
        elif refusal.code == "quota":
            kind = "ServiceQuotaExceededException"
        headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/", "x-amzn-requestid": "request-1"}
        if refusal.retry_after is not None:
            headers["retry-after"] = f"{refusal.retry_after:g}"
        return Reply(refusal.status, {"message": message}, headers)

    # ── the rest ──

    async def _invoked(self, messages: Messages, run: Run) -> AsyncIterator[bytes]:
        try:
            async for event in messages.events(run):
                if event["type"] == "message_stop":
                    metrics = {
                        "inputTokenCount": run.usage.input,
                        "outputTokenCount": run.usage.output + run.usage.thoughts,
                    }
                    event = {**event, "amazon-bedrock-invocationMetrics": metrics}
                inner = base64.b64encode(json.dumps(event).encode()).decode()
                yield frame("event", "chunk", {"bytes": inner, "p": "abcdefgh"})
        except Broken:
            yield frame(
                "exception", "modelStreamErrorException", {"message": "The model failed.", "originalStatusCode": 500}
            )

    def count(self, model: str, body: dict[str, Any]) -> Reply:
        if re.match(r"(us|eu|apac|global)\.", model):
            raise Refusal("The provided model identifier is invalid.")
        if claude(model) is None:
            raise Refusal("The provided model doesn't support counting tokens.")
        match strict.fields(body, "", "", "input")["input"]:
            case {"converse": dict(asked)}:
                counted = Converse(model, asked).ask.prompt_tokens
            case {"invokeModel": {"body": str(encoded)}}:
                asked = json.loads(decoded(encoded, "input.invokeModel.body"))
                counted = Messages(model, without_version(asked, ".*"), self, counting=True).ask.prompt_tokens
            case _:
                raise Refusal("input must have exactly one of converse and invokeModel")
        return Reply(body={"inputTokens": counted})


BAD_SIGNATURE = "InvalidSignatureException"


class Converse:
    """One Converse request: checked as the service model and the hosted model check it, then answered."""

    def __init__(self, model: str, body: dict[str, Any]) -> None:
        allowed = (
            "system inferenceConfig toolConfig additionalModelRequestFields additionalModelResponseFieldPaths outputConfig"
            " guardrailConfig performanceConfig promptVariables requestMetadata serviceTier"
        )
        strict.fields(body, "", allowed, "messages")
        self.model, self.body = model, body
        self.traits = claude(model)
        self.ask = Ask(model, blocks=False)
        if "system" in body:
            for place, block in enumerate(strict.items(body["system"], "system")):
                self.ask.system += self._text(
                    strict.fields(block, f"system.{place}", "cachePoint", "text"), f"system.{place}"
                )
        self._limits()
        self._tools()
        self._extra()
        self._turns(strict.items(body["messages"], "messages"))
        self._format()

    # ── reading ──

    def _text(self, block: dict[str, Any], where: str) -> str:
        said = strict.text(block["text"], f"{where}.text")
        if not said.strip():
            raise Refusal(
                f"The text field in the ContentBlock object at {where} is blank. Add text to the text field, and try again."
            )
        return said

    def _limits(self) -> None:
        config = strict.fields(
            self.body.get("inferenceConfig", {}), "inferenceConfig", "maxTokens temperature topP stopSequences"
        )
        for name, low, high in (("maxTokens", 1, 1e9), ("temperature", 0, 1), ("topP", 0, 1)):
            if name in config:
                strict.number(config[name], f"inferenceConfig.{name}", low, high, whole=name == "maxTokens")
        if self.traits:
            sampled = [name for name in ("temperature", "topP") if name in config]
            if self.traits.sampling == "no" and sampled:
                raise Refusal(
                    f"The model returned the following errors: `{sampled[0]}` is not supported by this model."
                )
            if self.traits.sampling == "one" and len(sampled) > 1:
                raise Refusal(
                    "The model returned the following errors: `temperature` and `top_p` cannot both be specified."
                )
            if config.get("maxTokens", 0) > self.traits.output:
                raise Refusal("The model returned the following errors: max_tokens: too large")
        self.ask.max_tokens, self.ask.stop = config.get("maxTokens"), config.get("stopSequences", [])

    def _tools(self) -> None:
        config = self.body.get("toolConfig")
        if config is None:
            return
        strict.fields(config, "toolConfig", "toolChoice", "tools")
        for place, tool in enumerate(strict.items(config["tools"], "toolConfig.tools")):
            where = f"toolConfig.tools.{place}"
            if "cachePoint" in tool:
                continue
            spec = strict.fields(
                strict.fields(tool, where, "", "toolSpec")["toolSpec"], where, "description strict", "name inputSchema"
            )
            name = strict.text(spec["name"], f"{where}.toolSpec.name", pattern=NAME)
            if "description" in spec:
                strict.text(spec["description"], f"{where}.toolSpec.description", empty=False)
            schema = strict.fields(spec["inputSchema"], f"{where}.toolSpec.inputSchema", "", "json")["json"]
            strict.object_root(schema, f"{where}.toolSpec.inputSchema.json")
            if name in self.ask.tools:
                raise Refusal(f"The tool {name} is already defined. Tool names must be unique.")
            self.ask.tools[name] = schema
        match config.get("toolChoice", {"auto": {}}):
            case {"auto": {}, **rest} if not rest:
                return
            case {"any": {}, **rest} if not rest:
                self.ask.choice = "any"
            case {"tool": {"name": str(name)}, **rest} if not rest and name in self.ask.tools:
                self.ask.choice = name
            case _:
                raise Refusal(
                    "Malformed input request: toolConfig.toolChoice", field="toolConfig.toolChoice", why="invalid"
                )
        if re.search(r"llama|mistral|titan", self.model) or (self.traits and self.traits.forced == "no"):
            raise Refusal(
                "This model doesn't support the toolConfig.toolChoice field. Remove toolConfig.toolChoice and try again."
            )

    def _extra(self) -> None:
        """Claude's own fields travel in additionalModelRequestFields."""
        extra = self.body.get("additionalModelRequestFields", {})
        thinking = extra.get("thinking") if isinstance(extra, dict) else None
        self.ask.thinks, self.shown = bool(self.traits and self.traits.always), False
        if self.traits is None:
            return
        strict.fields(extra, "additionalModelRequestFields", "thinking output_config top_k anthropic_beta")
        if thinking is not None:
            strict.one_of(thinking.get("type"), "thinking.type", self.traits.modes.split())
            if thinking["type"] == "enabled":
                strict.number(thinking.get("budget_tokens"), "thinking.budget_tokens", 1024, 1e9)
                if self.ask.choice not in ("auto", "none"):
                    raise Refusal(
                        "The model returned the following errors: Thinking may not be enabled when tool_choice forces tool use."
                    )
            self.ask.thinks = thinking["type"] != "disabled"
            default = "summarized" if thinking["type"] == "enabled" else "omitted"
            self.shown = thinking.get("display", default) == "summarized"
        if "output_config" in extra:
            strict.one_of(
                extra["output_config"].get("effort", "high"),
                "output_config.effort",
                ["high", *self.traits.effort.split()],
            )
        if "top_k" in extra and self.traits.sampling == "no":
            raise Refusal("The model returned the following errors: `top_k` is not supported by this model.")

    def _turns(self, messages: list[Any]) -> None:
        last, seen = "", False
        calls: list[str] = []
        names: set[str] = set()
        for place, message in enumerate(messages):
            where = f"messages.{place}"
            strict.fields(message, where, "", "role content")
            role = strict.one_of(message["role"], f"{where}.role", ("user", "assistant"))
            if place == 0 and role != "user":
                raise Refusal(
                    "A conversation must start with a user message. Try again with a conversation that starts with a user message."
                )
            if role == last:
                raise Refusal("A conversation must alternate between user and assistant roles.")
            last = role
            blocks = strict.items(message["content"], f"{where}.content")
            self.ask.turn(role)
            if role == "user":
                results = self._user(blocks, where, names)
                if set(results) != set(calls):
                    raise Refusal(
                        f"Expected toolResult blocks at {where}.content for the following Ids: {', '.join(calls)}"
                        if calls
                        else f"The number of toolResult blocks at {where}.content exceeds the number of toolUse blocks of previous turn."
                    )
                calls = []
            else:
                calls = self._assistant(blocks, where)
            seen = seen or bool(calls)
        if calls:
            raise Refusal(f"Expected toolResult blocks for the following Ids: {', '.join(calls)}")
        if seen and "toolConfig" not in self.body:
            raise Refusal("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
        if last == "assistant" and not (self.traits and self.traits.prefill):
            raise Refusal(
                "This model does not support assistant message prefill. The conversation must end with a user message."
            )

    def _user(self, blocks: list[Any], where: str, names: set[str]) -> list[str]:
        ids: list[str] = []
        results: list[str] = []
        has_text, has_document, has_media = False, False, False
        for number, block in enumerate(blocks):
            here = f"{where}.content.{number}"
            match block:
                case {"text": _}:
                    self.ask.learn(results)
                    results, has_text = [], True
                    self.ask.hear(self._text(strict.fields(block, here, "", "text"), here))
                case {"toolResult": dict(result)}:
                    strict.fields(result, here, "status type", "toolUseId content")
                    strict.one_of(result.get("status", "success"), f"{here}.status", ("success", "error"))
                    ids.append(result["toolUseId"])
                    results.append(self._result(result["content"], here, names))
                case {"image": _} | {"document": _} | {"video": _}:
                    has_media, has_document = True, has_document or "document" in block
                    self.ask.media.append(self._media(block, here, names))
                case {"cachePoint": _}:
                    pass
                case _:
                    raise Refusal(
                        f"Malformed input request: {here}: no known member in {sorted(block)}",
                        why="invalid",
                        field=here,
                    )
        if has_document and not has_text:
            raise Refusal("A text block must be included in a message with a document.")
        if ids and has_document and self.traits:
            raise Refusal("Document and video blocks cannot be mixed with toolResult blocks.")
        if ids and (has_text or has_media) and re.search(r"llama|mistral", self.model):
            raise Refusal("This model doesn't support toolResult blocks beside other content.")
        self.ask.learn(results)
        return ids

    def _result(self, content: Any, where: str, names: set[str]) -> str:
        said = []
        for block in strict.items(content, f"{where}.toolResult.content"):
            match block:
                case {"text": str(text)}:
                    said.append(text)
                case {"json": dict(value)}:
                    said.append(json.dumps(value, sort_keys=True))
                case {"image": _} | {"document": _}:
                    self.ask.media.append(self._media(block, where, names))
                case _:
                    raise Refusal(f"Malformed input request: {where}.toolResult.content", why="invalid", field=where)
        return "".join(said)

    def _media(self, block: dict[str, Any], where: str, names: set[str]) -> Media:
        kind, media = next(iter(block.items()))
        if kind == "video" and self.traits:
            raise Refusal("This model doesn't support the video content block that you provided.")
        strict.fields(media, where, "name context citations", "format source")
        formats = {"image": IMAGE_FORMATS, "document": DOCUMENT_FORMATS}.get(kind, ("mp4", "mov", "mkv", "webm"))
        strict.one_of(media["format"], f"{where}.{kind}.format", formats)
        if kind == "document":
            name = strict.text(
                media.get("name"), f"{where}.document.name", pattern=r"[a-zA-Z0-9()\[\]-]( ?[a-zA-Z0-9()\[\]-]){0,199}"
            )
            if name in names:
                raise Refusal("Document names must be unique in the request.")
            names.add(name)
        match media["source"]:
            case {"bytes": data, **rest} if not rest:
                decoded(data, f"{where}.{kind}.source.bytes")
                return Media({"document": "application"}.get(kind, kind) + f"/{media['format']}", data)
            case {"s3Location": {"uri": str(uri)}}:
                return Media(f"{kind}/s3", uri)
        raise Refusal(f"Malformed input request: {where}.{kind}.source", why="invalid", field=where)

    def _assistant(self, blocks: list[Any], where: str) -> list[str]:
        ids: list[str] = []
        for number, block in enumerate(blocks):
            here = f"{where}.content.{number}"
            match block:
                case {"text": _, **rest} if not rest:
                    self.ask.texts.append(self._text(block, here))
                case {"toolUse": {"toolUseId": str(ident), "name": str(name), "input": dict(_), **rest}} if not rest:
                    strict.text(ident, f"{here}.toolUse.toolUseId", pattern=r"[a-zA-Z0-9_.:-]{1,64}")
                    strict.text(name, f"{here}.toolUse.name", pattern=NAME)
                    if ident in ids:
                        raise Refusal("toolUse ids must be unique.")
                    ids.append(ident)
                case {"reasoningContent": {"reasoningText": {"text": str(_), "signature": str(signature)}}}:
                    if not signature.startswith(SIGNED):
                        raise Refusal(
                            "The model returned the following errors: Invalid `signature` in `thinking` block"
                        )
                case {"reasoningContent": {"redactedContent": str(data)}}:
                    decoded(data, f"{here}.reasoningContent.redactedContent")
                case _:
                    raise Refusal(f"Malformed input request: {here}", why="invalid", field=here)
        return ids

    def _format(self) -> None:
        config = strict.fields(self.body.get("outputConfig", {}), "outputConfig", "textFormat effort")
        match config.get("textFormat"):
            case None:
                return
            case {"type": "json_schema", "structure": {"jsonSchema": {"schema": str(schema)}}}:
                if self.traits and not self.traits.structured:
                    raise Refusal("This model doesn't support the outputConfig.textFormat field.")
                self.ask.schema = json.loads(schema)
                strict.anthropic_strict(self.ask.schema, "outputConfig.textFormat")
            case _:
                raise Refusal("Malformed input request: outputConfig.textFormat", why="invalid", field="outputConfig")

    # ── answering ──

    def answer(self, run: Run, plan: Plan) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        if plan.thoughts:
            text = {"text": plan.whole_thought if self.shown else "", "signature": sealed(plan)}
            content.append({"reasoningContent": {"reasoningText": text}})
        if plan.text:
            content.append({"text": plan.whole_text})
        content += [
            {"toolUse": {**_tool_use(call, place), "input": call.args}} for place, call in enumerate(plan.calls)
        ]
        output = {"message": {"role": "assistant", "content": content}}
        return {"output": output, "stopReason": STOPS[plan.end], "usage": usage(run.usage), "metrics": {"latencyMs": 1}}

    async def frames(self, run: Run) -> AsyncIterator[bytes]:
        yield frame("event", "messageStart", {"role": "assistant", "p": "abc"})
        place, opened, calls = -1, "", 0
        try:
            async for kind, value in run.steps():
                if kind != opened or kind == "call":
                    for one in self._close(opened, place, run.plan):
                        yield one
                    place, opened = place + 1, kind
                if kind == "call":
                    start = {"toolUse": _tool_use(value, calls)}
                    yield frame("event", "contentBlockStart", {"contentBlockIndex": place, "start": start})
                    calls += 1
                for delta in self._deltas(kind, value):
                    yield frame("event", "contentBlockDelta", {"contentBlockIndex": place, "delta": delta, "p": "ab"})
            for one in self._close(opened, place, run.plan):
                yield one
            yield frame("event", "messageStop", {"stopReason": STOPS[run.plan.end], "p": "abcdef"})
            yield frame("event", "metadata", {"usage": usage(run.usage), "metrics": {"latencyMs": 1}})
        except Broken:
            yield frame(
                "exception", "modelStreamErrorException", {"message": "The model failed.", "originalStatusCode": 500}
            )

    def _deltas(self, kind: str, value: Any) -> list[dict[str, Any]]:
        if kind == "thought":
            return [{"reasoningContent": {"text": value}}] if self.shown else []
        if kind == "text":
            return [{"text": value}]
        cut = max(1, len(value.arguments) // 2)
        return [{"toolUse": {"input": piece}} for piece in (value.arguments[:cut], value.arguments[cut:]) if piece]

    def _close(self, kind: str, place: int, plan: Plan) -> list[bytes]:
        if not kind:
            return []
        frames = []
        if kind == "thought":
            delta = {"reasoningContent": {"signature": sealed(plan)}}
            frames.append(frame("event", "contentBlockDelta", {"contentBlockIndex": place, "delta": delta}))
        return [*frames, frame("event", "contentBlockStop", {"contentBlockIndex": place})]


def usage(used: Usage) -> dict[str, Any]:
    return {
        "inputTokens": used.input - used.cached,
        "outputTokens": used.output + used.thoughts,
        "totalTokens": used.total,
        "cacheReadInputTokens": used.cached,
        "cacheWriteInputTokens": 0,
    }


def sealed(plan: Plan) -> str:
    return SIGNED + Call("thinking", plan.whole_thought).id


def _tool_use(call: Call, place: int) -> dict[str, Any]:
    return {"toolUseId": f"tooluse_{call.id}{place}", "name": call.name}


def frame(kind: str, name: str, payload: dict[str, Any]) -> bytes:
    """One event-stream message: prelude with its CRC, headers, payload, CRC of everything."""
    texts = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in texts.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", len(headers) + len(body) + 16, len(headers))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + headers + body
    return message + struct.pack(">I", binascii.crc32(message))
