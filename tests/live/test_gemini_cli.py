"""gemini-cli and @google/genai, as npm ships them, through a virtual key. GATEHOUSE_NODE_MODULES says where they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.live.world import World

pytestmark = [pytest.mark.live, pytest.mark.node]

MODULES = Path(os.environ.get("GATEHOUSE_NODE_MODULES", "/nonexistent"))
CLI = MODULES / "@google/gemini-cli"
SDK = MODULES / "@google/genai"
SETTINGS = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"enableAutoUpdate": False},
}
KINDS = ("gemini", "openai", "anthropic", "openai_responses", "bedrock-invoke", "bedrock-nova")


def needs(package: Path) -> None:
    if not package.is_dir():
        pytest.skip(f"{package.parent.name}/{package.name} is not installed (GATEHOUSE_NODE_MODULES)")


def run(command: list[str], directory: Path, world: World, **more: str) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    assert node is not None
    return subprocess.run(
        [node, *command],
        cwd=directory,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "GEMINI_API_KEY": world.keys["ci"],
            "GOOGLE_GEMINI_BASE_URL": world.url,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            **more,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini/settings.json").write_text(json.dumps(SETTINGS))
    return tmp_path


def gemini(world: World, home: Path, model: str, prompt: str) -> dict[str, Any]:
    needs(CLI)
    [entry] = json.loads((CLI / "package.json").read_text())["bin"].values()
    done = run([str(CLI / entry), "-m", model, "-p", prompt, "--output-format", "json", "--yolo"], home, world)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("model", KINDS)
def test_the_cli_gets_its_answer(world: World, home: Path, model: str) -> None:
    assert gemini(world, home, model, "[[text:The gate is open.]] Hi")["response"] == "The gate is open."


@pytest.mark.parametrize("model", KINDS)
def test_the_cli_reads_a_file_with_its_tool_and_tells_what_it_says(world: World, home: Path, model: str) -> None:
    note = home / "note.txt"
    note.write_text("The gate opens at nine.")
    call = json.dumps({"file_path": str(note)})
    answer = gemini(world, home, model, f"[[tool:read_file {call}]] What does the note say?")
    assert "The gate opens at nine." in answer["response"]
    tools = answer["stats"]["tools"]
    assert (tools["totalCalls"], tools["totalSuccess"]) == (1, 1)


def test_the_cli_fails_at_once_where_its_key_may_not_go(world: World, home: Path) -> None:
    needs(CLI)
    [entry] = json.loads((CLI / "package.json").read_text())["bin"].values()
    line = [str(CLI / entry), "-m", "secret-model", "-p", "Hi", "--output-format", "json"]
    done = run(line, home, world, GEMINI_API_KEY=world.keys["no-secrets"])
    assert done.returncode == 403 % 256
    assert "Model 'secret-model' is not allowed for this API key." in done.stderr


SCRIPT = """
import { GoogleGenAI } from "@google/genai";
const [model, failing] = process.argv.slice(2);
const ai = new GoogleGenAI({ apiKey: process.env.GEMINI_API_KEY });
const said = {};
said.text = (await ai.models.generateContent({ model, contents: "Good morning" })).text;
said.pieces = [];
for await (const chunk of await ai.models.generateContentStream({ model, contents: "one two three" }))
  said.pieces.push(chunk.text);
const chat = ai.chats.create({ model });
for await (const _ of await chat.sendMessageStream({ message: "First things first" }));
said.recalled = (await chat.sendMessage({ message: "[[recall]]" })).text;
said.tokens = (await ai.models.countTokens({ model, contents: "a b c" })).totalTokens;
try { await ai.models.generateContent({ model, contents: "[[error:400]]" }); }
catch (error) { said.refused = [error.name, error.status]; }
try {
  for await (const chunk of await ai.models.generateContentStream({ model: failing, contents: "[[cut:after=2]] [[long:6]]" }));
} catch (error) { said.broken = [error.name, error.status]; }
console.log(JSON.stringify(said));
"""


@pytest.mark.parametrize("model", ["gemini", "openai"])
def test_the_sdk_for_javascript_works_unchanged(world: World, tmp_path: Path, model: str) -> None:
    needs(SDK)
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "ask.mjs").write_text(SCRIPT)
    done = run(["ask.mjs", model, world.well(f"{model}-broken")], tmp_path, world)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["text"] == "You said: Good morning."
    assert "".join(said["pieces"]) == "You said: one two three." and len(said["pieces"]) > 2
    assert said["recalled"] == "You began with: First things first"
    assert said["tokens"] >= 3
    assert said["refused"] == ["ApiError", 400]
    assert said["broken"] == ["ApiError", 503]
