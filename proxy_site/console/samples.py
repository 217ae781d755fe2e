"""Ready requests for the loss preview, one for each thing that backends differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PAGE = "JVBERi0xLjQKMSAwIG9iago8PC9UeXBlL0NhdGFsb2c+PgplbmRvYmoKdHJhaWxlcgo8PC9Sb290IDEgMCBSPj4KJSVFT0YK"
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="

TEMPERATURE = {
    "name": "temperature",
    "description": "Degrees in a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """name: in the address. title, says: on the page."""

    name: str
    title: str
    says: str
    body: dict[str, Any]


def asking(text: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": [{"text": text}, *more]}]


def media(mime_type: str, data: str) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime_type, "data": data}}


SAMPLES = (
    Sample(
        "knobs", "Every knob", "Temperature, penalties, seed, stop, logprobs, safety",
        {
            "systemInstruction": {"parts": [{"text": "Answer briefly."}]},
            "contents": asking("Name three rivers."),
            "generationConfig": {
                "temperature": 0.7, "topP": 0.9, "topK": 40, "maxOutputTokens": 200, "candidateCount": 1, "seed": 7,
                "stopSequences": ["END"], "presencePenalty": 0.1, "frequencyPenalty": 0.1, "responseLogprobs": True,
                "logprobs": 2,
            },
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "labels": {"project": "rivers"},
        },
    ),
    Sample(
        "tools", "Tools", "A function the model must call",
        {
            "contents": asking("How warm is it in Bern?"),
            "tools": [{"functionDeclarations": [TEMPERATURE]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["temperature"]}},
        },
    ),
    Sample(
        "tool-result", "Tool result", "The second half of a call to a function",
        {
            "contents": [
                *asking("How warm is it in Bern?"),
                {"role": "model", "parts": [{"functionCall": {"id": "1", "name": "temperature", "args": {"city": "Bern"}}}]},
                {"role": "user", "parts": [
                    {"functionResponse": {"id": "1", "name": "temperature", "response": {"degrees": 12}}},
                ]},
            ],
            "tools": [{"functionDeclarations": [TEMPERATURE]}],
        },
    ),
    Sample(
        "built-in", "Built-in tools", "Google Search, URL context, code execution",
        {
            "contents": asking("What is new in Bern today?"),
            "tools": [{"googleSearch": {}}, {"urlContext": {}}, {"codeExecution": {}}],
        },
    ),
    Sample(
        "structured", "Structured output", "An answer by a JSON schema",
        {
            "contents": asking("Two rivers with their lengths."),
            "generationConfig": {
                "responseMimeType": "application/json",
                "responseSchema": {
                    "type": "ARRAY",
                    "maxItems": 2,
                    "items": {
                        "type": "OBJECT",
                        "properties": {"name": {"type": "STRING"}, "km": {"type": "INTEGER", "minimum": 1}},
                        "required": ["name", "km"],
                        "propertyOrdering": ["name", "km"],
                    },
                },
            },
        },
    ),
    Sample(
        "thinking", "Thinking", "A budget, and thoughts in the answer",
        {
            "contents": asking("How many trees stand along 5 km of road, one every 20 m?"),
            "generationConfig": {"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True}},
        },
    ),
    Sample("image", "Image", "A picture beside the text", {"contents": asking("What is this?", media("image/png", PIXEL))}),
    Sample(
        "documents", "PDF and sound", "Media that few backends take",
        {"contents": asking("Compare the two.", media("application/pdf", PAGE), media("audio/wav", SILENCE))},
    ),
    Sample(
        "pictures-out", "Pictures and speech out", "Answers that are not text",
        {
            "contents": asking("Draw a river, and say its name."),
            "generationConfig": {
                "responseModalities": ["TEXT", "IMAGE"],
                "speechConfig": {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}},
            },
        },
    ),
)  # fmt: skip
BY_NAME = {sample.name: sample for sample in SAMPLES}
