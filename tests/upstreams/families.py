"""What the models of a vendor take and refuse, by their names: the vendors' own tables, as the fakes enforce them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What a family of models takes: reasoning efforts ("" for none), its default, whether sampling needs effort none or is
# refused altogether, and whether tools need effort none.
OPENAI: tuple[tuple[str, str, str, str, bool], ...] = (
    (r"gpt-5\.[4]|gpt-5\.4-.*", "none low medium high xhigh", "none", "with none", True),
    (r"gpt-5\.[56].*", "none low medium high xhigh", "medium", "with none", True),
    (r"gpt-5\.1.*", "none low medium high", "none", "with none", False),
    (r"gpt-5\.[23].*", "none low medium high xhigh", "none", "with none", False),
    (r"gpt-5.*", "minimal low medium high", "medium", "never", False),
    (r"gpt-6-(sol|luna).*|gpt-6\.1-terra.*", "none low medium high xhigh", "medium", "never", True),
    (r"gpt-6.*", "low medium high xhigh", "medium", "never", True),
    (r"o1.*|o3.*|o4.*", "low medium high", "medium", "never", False),
    (r".*", "", "", "always", False),
)


def openai_family(model: str) -> tuple[list[str], str, str, bool]:
    for pattern, efforts, default, sampling, tools_need_none in OPENAI:
        if re.fullmatch(pattern, model):
            return efforts.split(), default, sampling, tools_need_none
    raise AssertionError("the last pattern fits every name")


@dataclass(frozen=True)
class Claude:
    """modes: which `thinking.type` it takes. always: it thinks when nothing is said. sampling: yes, one (temperature or
    top_p, not both), no. forced: yes, not with budget thinking, no."""

    pattern: str
    output: int
    modes: str
    always: bool = False
    sampling: str = "no"
    forced: str = "yes"
    effort: str = ""
    prefill: bool = False
    structured: bool = True


EFFORT = "low medium high"
CLAUDES = (
    Claude(r"claude-3-7.*", 64000, "enabled disabled", False, "yes", "budget", prefill=True, structured=False),
    Claude(r"claude-3.*|claude-2.*", 8192, "", False, "yes", prefill=True, structured=False),
    Claude(r"claude-opus-4-5.*", 64000, "enabled disabled", False, "one", "budget", EFFORT, prefill=True),
    Claude(r"claude-(sonnet|opus)-4-6.*", 128000, "adaptive enabled disabled", False, "one", "yes", f"{EFFORT} max"),
    Claude(r"claude-opus-4-[7-9].*", 128000, "adaptive disabled", False, "no", "yes", f"{EFFORT} xhigh max"),
    Claude(r"claude-opus-4.*", 32000, "enabled disabled", False, "one", "budget", prefill=True),
    Claude(r"claude-(sonnet|haiku)-4.*", 64000, "enabled disabled", False, "one", "budget", prefill=True),
    Claude(r"claude-opus-5-5.*", 128000, "adaptive", True, "no", "no", f"{EFFORT} xhigh max"),
    Claude(r"claude-sonnet-5-5.*", 128000, "adaptive between_tools", True, "no", "no", f"{EFFORT} xhigh max"),
    Claude(r"claude-(opus|sonnet|haiku)-5.*", 128000, "adaptive disabled", True, "no", "yes", f"{EFFORT} xhigh max"),
    Claude(r"claude-.*", 128000, "adaptive", True, "no", "no", f"{EFFORT} xhigh max"),
)


def claude(model: str) -> Claude | None:
    """By the bare name: Bedrock's `us.anthropic.claude-…-v1:0` and Vertex's `claude-…@date` are the same models."""
    name = re.sub(r"^.*anthropic\.", "", model)
    return next((one for one in CLAUDES if re.fullmatch(one.pattern, name)), None)
