"""What the client lets the model call: declarations merged from all its tools, and how free the choice is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gemini_api.translators import schema
from gemini_api.translators.base import Json
from gemini_api.translators.losses import Losses


@dataclass(frozen=True, slots=True)
class Declaration:
    """One function. parameters: a JSON Schema whose root is an object; shared between calls, never to be changed."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class Choice:
    """mode: AUTO, ANY, NONE or VALIDATED. allowed: the only functions that may be called; empty means all."""

    mode: str = "AUTO"
    allowed: tuple[str, ...] = ()


_FREE = Choice()


def declared(body: Json, losses: Losses) -> list[Declaration]:
    """Every declared function, in order. Refuses Google's built-in tools, which only Gemini can serve."""
    found: list[Declaration] = []
    for index, tool in enumerate(body.get("tools", ())):
        for name in tool:
            if name != "functionDeclarations":
                losses.refuse(
                    f"tools[{index}].{name}", f"Built-in tools are only served by Gemini, not by {losses.backend}."
                )
        for place, declaration in enumerate(tool.get("functionDeclarations", ())):
            where = f"tools[{index}].functionDeclarations[{place}]"
            found.append(
                Declaration(
                    declaration["name"], declaration.get("description", ""), schema.parameters(declaration, where)
                )
            )
    return found


def choice(body: Json) -> Choice:
    """The function calling mode with its allowed names (already checked by `wire.normalise`)."""
    config = body.get("toolConfig", {}).get("functionCallingConfig")
    if not config:
        return _FREE
    mode = config.get("mode", "AUTO")
    if mode == "MODE_UNSPECIFIED":
        mode = "AUTO"
    return Choice(mode, tuple(config.get("allowedFunctionNames", ())))


def check_validated(mode: str, written: Iterable[tuple[bool, Json]], losses: Losses) -> None:
    """Class W: VALIDATED promises that calls fit their schemas, which holds for functions that the vendor enforces.

    written: for every function, whether it does, and its schema. One without arguments has nothing to enforce.
    """
    if mode == "VALIDATED" and not all(enforced or not schema.get("properties") for enforced, schema in written):
        losses.drop("toolConfig.functionCallingConfig.mode", "Not every function's schema can be enforced there.")
