"""What each model can do, as data: one table per family, looked up by the longest prefix of the model's name.

Every row only says where it differs from the family's DEFAULT. A deployment may override any value of a row
(`Target.capabilities`, edited in the admin): model names change monthly, tables must not need a release.

Values, where a family has them:
    efforts           thinking efforts the model takes, of `thinking.SCALE` ("off" = it can be switched off); () = none
    default_effort    what it does unasked
    sampling          "yes", "no", or "off_only" (only while it does not think)
    max_output        most output tokens, 0 = unknown
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gemini_api.translators.base import Target

Row = Mapping[str, Any]

# --- OpenAI: Chat Completions and Responses ---------------------------------------------------------------------------
#   stop, penalties       whether stop sequences and penalties are taken
#   tools_thinking        tools while thinking, on Chat: "yes", "off_only", "no" (needs Responses)
#   chat                  whether Chat serves the model at all
#   audio                 takes audio input
#   encrypted_reasoning   Responses: a reasoning model, so `include` may ask for its encrypted reasoning
# Switches for servers that imitate OpenAI, and for Azure and Google doing so:
#   system_role           "system" or "developer"
#   max_tokens_field      "max_completion_tokens" or "max_tokens"
#   effort_field          "reasoning_effort", or "" for servers that do not know it
#   efforts_max           highest effort word Chat takes ("max" is only for Responses)
#   stream_options, allowed_tools, tool_choice_required, json_schema, json_object, strict_tools, file_parts, seed, n,
#   tools, detail, top_k, logprobs, penalties: whether known there
#   string_content        message contents can only be strings
#   alternation           user and assistant must strictly alternate (no two user messages in a row)
#   short_ids             tool call ids of nine letters and digits (Mistral)
#   signatures            "extra_content": tool calls carry Gemini's own thought signatures (Google's endpoint)
#   stop_limit            how many stop sequences are taken
#   thoughts              whether thought summaries can come back

OPENAI_DEFAULT: Row = {
    "efforts": (), "default_effort": "", "sampling": "yes", "stop": True, "penalties": True, "tools_thinking": "yes",
    "chat": True, "audio": False, "encrypted_reasoning": False, "max_output": 0,
    "system_role": "system", "max_tokens_field": "max_completion_tokens", "effort_field": "reasoning_effort",
    "efforts_max": "xhigh", "stream_options": True, "tools": True, "allowed_tools": True, "tool_choice_required": True,
    "json_schema": True, "json_object": True, "strict_tools": True, "file_parts": True, "seed": True, "n": True,
    "detail": True, "logprobs": True, "string_content": False, "alternation": False, "short_ids": False,
    "signatures": "", "top_k": False, "stop_limit": 4, "thoughts": True,
}  # fmt: skip

_REASONING: Row = {
    "sampling": "no", "stop": False, "penalties": False, "default_effort": "medium", "encrypted_reasoning": True,
    "logprobs": False, "thoughts": False,
}  # fmt: skip
_TO_HIGH = ("low", "medium", "high")
_TO_XHIGH = ("off", "low", "medium", "high", "xhigh")
_TO_MAX = ("off", "low", "medium", "high", "xhigh", "max")
_PRO: Row = {**_REASONING, "efforts": ("medium", "high", "xhigh"), "chat": False, "tools_thinking": "no"}
_CHAT: Row = {**_REASONING, "efforts": ("medium",)}
_OFF_UNASKED: Row = {**_REASONING, "default_effort": "off", "sampling": "off_only"}
_GOOGLE: Row = {
    "max_tokens_field": "max_tokens", "allowed_tools": False, "logprobs": False, "strict_tools": False, "thoughts": False,
    "file_parts": False, "audio": True,
}  # fmt: skip
_GOOGLE_3: Row = {**_GOOGLE, "efforts": _TO_HIGH, "signatures": "extra_content"}

OPENAI: Mapping[str, Row] = {
    "gpt-3.5": {}, "gpt-4": {}, "gpt-4o": {}, "gpt-4.1": {},
    "gpt-4o-audio": {"audio": True}, "gpt-4o-mini-audio": {"audio": True}, "gpt-audio": {"audio": True},
    "o1": {**_REASONING, "efforts": _TO_HIGH}, "o3": {**_REASONING, "efforts": _TO_HIGH},
    "o4-mini": {**_REASONING, "efforts": _TO_HIGH},
    "o1-pro": {**_PRO, "efforts": _TO_HIGH}, "o3-pro": {**_PRO, "efforts": _TO_HIGH},
    "gpt-5": {**_REASONING, "efforts": ("minimal", *_TO_HIGH)},
    "gpt-5.1": {**_OFF_UNASKED, "efforts": ("off", *_TO_HIGH)},
    "gpt-5.2": {**_OFF_UNASKED, "efforts": _TO_XHIGH}, "gpt-5.3": {**_OFF_UNASKED, "efforts": _TO_XHIGH},
    "gpt-5.4": {**_OFF_UNASKED, "efforts": _TO_XHIGH, "tools_thinking": "off_only"},
    "gpt-5.5": {**_REASONING, "efforts": _TO_XHIGH, "sampling": "off_only", "tools_thinking": "off_only"},
    "gpt-5.6": {**_REASONING, "efforts": _TO_MAX, "sampling": "off_only", "tools_thinking": "off_only"},
    "gpt-6": {**_REASONING, "efforts": _TO_MAX, "tools_thinking": "off_only"},
    "gpt-6-astra": {**_REASONING, "efforts": _TO_MAX[1:], "tools_thinking": "no"},
    "gpt-6.1-sol": {**_REASONING, "efforts": _TO_MAX[1:], "tools_thinking": "no"},
    "gpt-6.1-terra": {**_REASONING, "efforts": _TO_MAX, "tools_thinking": "off_only"},
    "gpt-6.2": {**_REASONING, "efforts": _TO_MAX[1:], "tools_thinking": "no"},
    "gpt-5-pro": {**_PRO, "efforts": ("high",)}, "gpt-5.1-pro": _PRO, "gpt-5.2-pro": _PRO, "gpt-5.3-pro": _PRO,
    "gpt-5.4-pro": _PRO, "gpt-5.5-pro": _PRO, "gpt-5.6-pro": _PRO, "gpt-6-pro": _PRO, "gpt-6.1-pro": _PRO,
    "gpt-5-chat": _CHAT, "gpt-5.1-chat": _CHAT, "gpt-5.2-chat": _CHAT, "gpt-5.3-chat": _CHAT, "gpt-5.4-chat": _CHAT,
    "gpt-5.5-chat": _CHAT, "gpt-5.6-chat": _CHAT, "gpt-6-chat": _CHAT,
    "gpt-oss": {"efforts": _TO_HIGH, "default_effort": "medium"},
    "mistral": {"short_ids": True}, "ministral": {"short_ids": True}, "codestral": {"short_ids": True},
    "devstral": {"short_ids": True}, "magistral": {"short_ids": True}, "mixtral": {"short_ids": True},
    "pixtral": {"short_ids": True}, "open-mistral": {"short_ids": True}, "open-mixtral": {"short_ids": True},
    # Google's models behind its own OpenAI-compatible endpoints. Thought text only comes with a switch that excludes
    # reasoning_effort, so it is not asked for.
    "gemini-1": _GOOGLE, "gemini-2.0": _GOOGLE, "gemini-2.5": {**_GOOGLE, "efforts": ("off", *_TO_HIGH)},
    "gemini-2.5-pro": {**_GOOGLE, "efforts": _TO_HIGH},
    "gemini-3": {**_GOOGLE_3, "efforts": ("minimal", *_TO_HIGH)}, "gemini-3-pro": {**_GOOGLE_3, "efforts": ("low", "high")},
    "gemini-3.1-pro": _GOOGLE_3, "gemini-3.7-flash": _GOOGLE_3, "gemini-3.8-flash": _GOOGLE_3,
    "gemini-4": {**_GOOGLE_3, "efforts": ("minimal", *_TO_HIGH)}, "gemini-4-argon": _GOOGLE_3, "gemini-4-carbon": _GOOGLE_3,
}  # fmt: skip

# --- Anthropic Messages -----------------------------------------------------------------------------------------------
#   thinking          modes, best first: "adaptive", "budget"; () = none
#   always_on         thinking cannot be switched off
#   default_on        thinks unasked
#   off               the object that switches thinking off
#   off_effort_max    highest effort that may stand beside "off", "" = any
#   one_sampling      temperature and top_p not together
#   forced_tools      "yes", "not_thinking" (not while thinking), "no"
#   prefill           a last assistant turn is continued
#   prefix_bound      thinking blocks are bound to everything before them
#   structured, strict_tools   output_config.format, strict tools
#   effort            takes output_config.effort

ANTHROPIC_DEFAULT: Row = {
    "max_output": 0, "thinking": (), "efforts": (), "default_on": False, "always_on": False,
    "off": {"type": "disabled"}, "off_effort_max": "", "sampling": "yes", "one_sampling": False, "forced_tools": "yes",
    "prefill": True, "prefix_bound": False, "structured": False, "strict_tools": False, "effort": False, "top_k": True,
}  # fmt: skip

_CLAUDE_BUDGET: Row = {"thinking": ("budget",), "forced_tools": "not_thinking"}
_CLAUDE_4_5: Row = {
    **_CLAUDE_BUDGET, "max_output": 64000, "one_sampling": True, "structured": True, "strict_tools": True,
}  # fmt: skip
_CLAUDE_4_6: Row = {
    "max_output": 128000, "thinking": ("adaptive", "budget"), "efforts": (*_TO_HIGH, "max"), "effort": True,
    "one_sampling": True, "prefill": False, "structured": True, "strict_tools": True,
}  # fmt: skip
_CLAUDE_4_7: Row = {
    **_CLAUDE_4_6, "thinking": ("adaptive",), "efforts": (*_TO_HIGH, "xhigh", "max"), "sampling": "no", "top_k": False,
}  # fmt: skip
_CLAUDE_5: Row = {**_CLAUDE_4_7, "default_on": True}
_CLAUDE_BOUND: Row = {**_CLAUDE_5, "prefix_bound": True, "forced_tools": "no"}

ANTHROPIC: Mapping[str, Row] = {
    "claude-2": {"max_output": 4096}, "claude-3": {"max_output": 4096}, "claude-3-5": {"max_output": 8192},
    "claude-3-7": {**_CLAUDE_BUDGET, "max_output": 64000},
    "claude-opus-4": {**_CLAUDE_BUDGET, "max_output": 32000},
    "claude-opus-4-1": {**_CLAUDE_BUDGET, "max_output": 32000, "one_sampling": True, "structured": True},
    "claude-sonnet-4": {**_CLAUDE_BUDGET, "max_output": 64000},
    "claude-sonnet-4-5": _CLAUDE_4_5, "claude-haiku-4-5": _CLAUDE_4_5,
    "claude-opus-4-5": {**_CLAUDE_4_5, "effort": True, "efforts": _TO_HIGH},
    "claude-sonnet-4-6": _CLAUDE_4_6, "claude-opus-4-6": _CLAUDE_4_6,
    "claude-opus-4-7": _CLAUDE_4_7, "claude-opus-4-8": _CLAUDE_4_7, "claude-opus-4-9": _CLAUDE_4_7,
    "claude-sonnet-4-7": _CLAUDE_4_7, "claude-sonnet-4-8": _CLAUDE_4_7, "claude-haiku-4-7": _CLAUDE_4_7,
    "claude-opus-5": {**_CLAUDE_5, "off_effort_max": "high"}, "claude-sonnet-5": _CLAUDE_5,
    "claude-haiku-5": _CLAUDE_5,
    "claude-haiku-5-5": {**_CLAUDE_5, "off_effort_max": "high", "prefix_bound": True},
    "claude-opus-5-5": {**_CLAUDE_BOUND, "always_on": True},
    "claude-sonnet-5-5": {**_CLAUDE_BOUND, "off": {"type": "between_tools"}, "off_effort_max": "high"},
    "claude-fable-5": {**_CLAUDE_BOUND, "always_on": True},
    "claude-mythos-5": {**_CLAUDE_BOUND, "always_on": True, "prefix_bound": False},
    "claude-mythos-5-2": {**_CLAUDE_BOUND, "always_on": True},
}  # fmt: skip

# --- Bedrock Converse -------------------------------------------------------------------------------------------------
#   tools, system, images, documents, video, audio: whether the model takes them
#   forced_tools      True, False, or "any" (any function, but not a certain one)
#   results_alone, document_with_results: what may stand beside function results in one message
#   tool_result_media, result_status: whether a function result may hold media, and its own status
#   top_k             where it goes: "claude", "nova", "" (nowhere)
#   claude            the sampling and thinking rules of ANTHROPIC apply besides
#   effort_in         how an effort is written: "reasoning_effort", "reasoning", "reasoningConfig", "" (not at all)
#   bare_effort       beside this effort no sampling and no limit of output are taken
#   plain_schema      Nova: few keywords at a schema's root
#   structured, strict_tools   outputConfig.textFormat, strict tools
#   stop_limit        how many stop sequences are taken

CONVERSE_DEFAULT: Row = {
    "max_output": 0, "tools": True, "forced_tools": True, "system": True, "images": False, "documents": True,
    "video": False, "audio": False, "results_alone": False, "document_with_results": True, "tool_result_media": False,
    "result_status": False, "top_k": "", "claude": False, "plain_schema": False, "structured": False,
    "strict_tools": False, "stop_limit": 4, "efforts": (), "effort_in": "", "bare_effort": "", "prefill": False,
    "short_ids": False,
}  # fmt: skip

_CONVERSE_CLAUDE: Row = {
    "images": True, "top_k": "claude", "claude": True, "stop_limit": 2500, "document_with_results": False,
    "tool_result_media": True, "result_status": True,
}  # fmt: skip
_CONVERSE_BOUND: Row = {**_CONVERSE_CLAUDE, "structured": True, "strict_tools": True}
_NOVA: Row = {
    "images": True, "video": True, "top_k": "nova", "plain_schema": True, "tool_result_media": True, "result_status": True,
}  # fmt: skip
_NOVA_2: Row = {
    **_NOVA, "efforts": ("off", *_TO_HIGH), "effort_in": "reasoningConfig", "bare_effort": "high",
}  # fmt: skip
_CONVERSE_GPT: Row = {"images": True, "efforts": _TO_MAX, "effort_in": "reasoning"}

CONVERSE: Mapping[str, Row] = {
    "anthropic.claude": _CONVERSE_CLAUDE,
    "anthropic.claude-sonnet-4-5": _CONVERSE_BOUND, "anthropic.claude-haiku-4-5": _CONVERSE_BOUND,
    "anthropic.claude-opus-4-5": _CONVERSE_BOUND, "anthropic.claude-opus-4-6": _CONVERSE_BOUND,
    "amazon.nova": _NOVA, "amazon.nova-2": _NOVA_2,
    "amazon.nova-micro": {**_NOVA, "images": False, "video": False, "documents": False, "tool_result_media": False},
    "amazon.titan": {"tools": False, "forced_tools": False, "system": False},
    "meta.llama": {"forced_tools": False, "results_alone": True},
    "meta.llama4": {"forced_tools": False, "results_alone": True, "images": True},
    "mistral": {"forced_tools": False, "results_alone": True, "short_ids": True},
    "mistral.mistral-large": {"forced_tools": "any", "results_alone": True, "short_ids": True},
    "mistral.pixtral": {"forced_tools": False, "results_alone": True, "images": True, "short_ids": True},
    "twelvelabs.pegasus": {"tools": False, "video": True, "documents": False},
    "deepseek": {"forced_tools": "any"},
    "deepseek.r1": {"tools": False, "forced_tools": False},
    "cohere.command-r": {"forced_tools": False},
    "ai21.jamba": {"forced_tools": False},
    "openai.gpt": _CONVERSE_GPT,
    "openai.gpt-oss": {
        "forced_tools": False, "efforts": _TO_HIGH, "effort_in": "reasoning_effort", "documents": False,
    },
}  # fmt: skip

# --- Gemini -----------------------------------------------------------------------------------------------------------
#   thinking          "budget" or "level": the only one taken; "both": either, one at a time; "": no thinkingConfig at
#                     all; "any": nothing is known of the model, so it is asked as the client asked
#   budget_range      least and most budget
#   off               whether thinking can be switched off
#   signatures        function calls must carry a thought signature
# A deployment may also set:
#   dear_tiers        service tiers that cost more than standard may be asked for; give it a price of its own then
#   platform          "vertex" or "developer": whose fields are taken (otherwise the connection's options tell)

GEMINI_DEFAULT: Row = {
    "thinking": "any", "efforts": ("minimal", *_TO_HIGH), "budget_range": (1, 32768), "off": True, "signatures": False,
    "platform": "", "dear_tiers": False,
}  # fmt: skip
_GEMINI_3: Row = {"thinking": "both", "signatures": True, "off": False}

GEMINI: Mapping[str, Row] = {
    "gemini-1": {"thinking": ""}, "gemini-2.0": {"thinking": ""}, "gemma": {"thinking": ""},
    "gemini-2.5": {"thinking": "budget", "budget_range": (1, 24576)},
    "gemini-2.5-pro": {"thinking": "budget", "budget_range": (128, 32768), "off": False},
    "gemini-2.5-flash": {"thinking": "budget", "budget_range": (1, 24576)},
    "gemini-2.5-flash-lite": {"thinking": "budget", "budget_range": (512, 24576)},
    "gemini-2.5-flash-image": {"thinking": ""},
    "gemini-3": _GEMINI_3,
    "gemini-3-pro": {**_GEMINI_3, "efforts": ("low", "high")},
    "gemini-3.1-pro": {**_GEMINI_3, "efforts": _TO_HIGH},
    "gemini-3.1-flash-lite-image": {**_GEMINI_3, "efforts": ("minimal", "high")},
    "gemini-3.7-flash": {**_GEMINI_3, "efforts": _TO_HIGH},
    "gemini-3.8-flash": {**_GEMINI_3, "efforts": _TO_HIGH},
    "gemini-4": _GEMINI_3,
    "gemini-4-argon": {**_GEMINI_3, "thinking": "level", "efforts": _TO_HIGH},
    "gemini-4-carbon": {**_GEMINI_3, "efforts": _TO_HIGH},
}  # fmt: skip

# --- Tokens -----------------------------------------------------------------------------------------------------------
# How many tokens a model's own tokenizer makes of text that is one token of o200k_base, by the longest prefix of the bare
# name, vendor aside; "" is everybody else. A deployment may set `token_factor`.
_NEW_CLAUDE = 1.35

TOKEN_FACTORS: Mapping[str, float] = {
    "": 1.1, "gpt": 1.0, "chatgpt": 1.0, "o1": 1.0, "o3": 1.0, "o4": 1.0, "text-embedding": 1.0, "gemini": 1.0,
    "claude": 1.15, "claude-opus-4-7": _NEW_CLAUDE, "claude-opus-4-8": _NEW_CLAUDE, "claude-opus-4-9": _NEW_CLAUDE,
    "claude-sonnet-4-7": _NEW_CLAUDE, "claude-sonnet-4-8": _NEW_CLAUDE, "claude-haiku-4-7": _NEW_CLAUDE,
    "claude-opus-5": _NEW_CLAUDE, "claude-sonnet-5": _NEW_CLAUDE, "claude-haiku-5": _NEW_CLAUDE,
    "claude-fable": _NEW_CLAUDE, "claude-mythos": _NEW_CLAUDE,
}  # fmt: skip

_FAMILIES: dict[str, tuple[Row, Mapping[str, Row]]] = {
    "openai": (OPENAI_DEFAULT, OPENAI),
    "anthropic": (ANTHROPIC_DEFAULT, ANTHROPIC),
    "converse": (CONVERSE_DEFAULT, CONVERSE),
    "gemini": (GEMINI_DEFAULT, GEMINI),
}


def of(family: str, target: Target) -> Row:
    """The row of a target's model in a family's table, with the deployment's overrides on top. Never change it."""
    row = shipped(family, target.base_model or target.model)
    return {**row, **target.capabilities} if target.capabilities else row


@lru_cache(maxsize=1024)
def shipped(family: str, model: str) -> Row:
    """The shipped row: the family's defaults and the entry with the longest prefix of the bare model name."""
    default, table = _FAMILIES[family]
    name = bare(model)
    best = max((prefix for prefix in table if name.startswith(prefix)), key=len, default=None)
    return {**default, **table[best]} if best is not None else default


@lru_cache(maxsize=1024)
def token_factor(model: str) -> float:
    """What our count of text is multiplied with to be this model's."""
    name = _vendorless(model)
    return TOKEN_FACTORS[max((prefix for prefix in TOKEN_FACTORS if name.startswith(prefix)), key=len)]


def bare(model: str) -> str:
    """A model's own name: without vendor path, fine-tune mark, inference-profile region.

    models/gemini-3-pro, openai/gpt-5, ft:gpt-4o:acme, us.anthropic.claude-opus-4-5-20251101-v1:0 (Bedrock keeps
    its vendor).
    """
    name = model.rpartition("/")[2].lower().removeprefix("ft:")
    first, dot, rest = name.partition(".")
    if dot and first in _PROFILES:
        name = rest
    return name


_PROFILES = frozenset({"us", "eu", "apac", "global", "us-gov", "jp", "au", "ca", "sa", "me", "af"})


def claude(target: Target) -> Row:
    """ANTHROPIC's row for a Claude that another vendor hosts (anthropic.claude-..., claude-...@20250514)."""
    row = shipped("anthropic", _vendorless(target.base_model or target.model))
    return {**row, **target.capabilities} if target.capabilities else row


def _vendorless(model: str) -> str:
    name = bare(model)
    vendor, dot, rest = name.partition(".")
    return rest if dot and vendor.isalpha() else name
