"""Exact counts by every vendor that counts, and vectors from every kind that embeds, through the running product."""

from __future__ import annotations

from typing import Any

import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from tests.live.added import added
from tests.live.world import BY_NAME, Json, World, recorded, saying

pytestmark = pytest.mark.live

EXACT = ("gemini", "vertex", "vertex-anthropic", "openai_responses", "anthropic", "bedrock-invoke", "bedrock-converse")
# Kinds that embed, and what embeds there. Their upstreams tell what they charge for, but for the first.
VECTORS = {
    "gemini": "gemini-embedding-001", "vertex": "gemini-embedding-001", "openai": "text-embedding-3-small",
    "azure-chat": "text-embedding-3-small", "azure-responses": "text-embedding-3-small", "gemini_openai": "gemini-embedding-001",
}  # fmt: skip
PRICE = {"input": "1.0", "output": "0.0"}  # USD per million tokens


@pytest.fixture(scope="module", autouse=True)
def models(world: World) -> None:
    counting = [
        {
            "name": f"counts-{name}",
            "deployments": [{"connection": name, "upstream_model": BY_NAME[name].model, "exact_token_count": True}],
        }
        for name in (*EXACT, "azure-chat", "bedrock-nova")
    ]
    embedding = [
        {"name": f"embeds-{name}", "deployments": [{"connection": name, "upstream_model": model, "price": PRICE}]}
        for name, model in VECTORS.items()
    ]
    embedding.append(
        {
            "name": "embeds-classic",
            "deployments": [{"connection": "vertex", "upstream_model": "text-embedding-005", "price": PRICE}],
        }
    )
    added(world, [{"unpriced": "serve", **each} for each in (*counting, *embedding)])


def counted(world: World, model: str, body: Json) -> tuple[int, str]:
    answer = world.ask(model, "countTokens", body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) <= {"totalTokens", "promptTokensDetails"}
    return answer.json()["totalTokens"], answer.headers["x-gatehouse-token-count"]


# ── counting ──


@pytest.mark.parametrize("kind", EXACT)
def test_the_vendor_is_asked_once_and_its_number_is_kept_for_the_same_question(world: World, kind: str) -> None:
    assert world.ask(kind).status_code == 200  # has its token now, where it needs one
    vendor = world.vendor(BY_NAME[kind])
    body = saying(f"how many words does {kind} count", systemInstruction={"parts": [{"text": "Be brief."}]})
    first = counted(world, f"counts-{kind}", body)
    assert first == (8, "exact"), [(request.path, request.answered) for request in vendor.requests]
    assert counted(world, f"counts-{kind}", body) == first
    assert len(vendor.requests) == 1
    assert counted(world, f"counts-{kind}", saying(f"another for {kind}")) == (3, "exact")


@pytest.mark.parametrize("kind", ["gemini", "vertex", "openai_responses", "anthropic", "bedrock-converse"])
@pytest.mark.parametrize("fault", ["503", "401", "429 retry-after=7", "200 garbage", "200 nothing"])
def test_a_count_that_fails_is_estimated_and_the_next_one_is_exact(world: World, kind: str, fault: str) -> None:
    vendor = world.vendor(BY_NAME[kind])
    question = saying(f"{kind} fails with {fault}")
    assert world.ask(kind).status_code == 200
    vendor.faults.append(fault)
    total, how = counted(world, f"counts-{kind}", question)
    assert (how, total > 4) == ("estimate", True)


@pytest.mark.parametrize("kind", ["azure-chat", "bedrock-nova"])
def test_who_cannot_count_leaves_it_to_the_estimate(world: World, kind: str) -> None:
    assert counted(world, f"counts-{kind}", saying("one two three"))[1] == "estimate"


def test_an_estimate_goes_by_the_models_family(world: World) -> None:
    body = saying("The quick brown fox jumps over the lazy dog. " * 50)
    gpt, claude = (counted(world, name, body) for name in ("openai", "anthropic"))
    assert (gpt[1], claude[1]) == ("estimate", "estimate")
    assert claude[0] == -(-gpt[0] * 115 // 100)


# ── vectors ──


def content(text: str, **more: Any) -> Json:
    return {"content": {"parts": [{"text": text}]}, **more}


@pytest.mark.parametrize("kind", VECTORS)
def test_vectors_are_counted_and_charged_to_the_deployment_that_made_them(world: World, kind: str) -> None:
    texts = ["one two three", "four five"]
    requests = [content(text, model=f"models/embeds-{kind}") for text in texts]
    answer = world.ask(f"embeds-{kind}", "batchEmbedContents", {"requests": requests})
    assert answer.status_code == 200, answer.text
    assert len({tuple(each["values"]) for each in answer.json()["embeddings"]}) == 2
    [row] = recorded(world.gateway, [answer.headers["x-request-id"]]).values()
    assert (row["http_status"], row["action"], row["backend"]) == (200, "batchEmbedContents", BY_NAME[kind].kind)
    assert row["output_tokens"] == 0
    if kind == "gemini":  # says nothing about what it read
        assert row["flags"] == ["estimated"]
        assert row["prompt_tokens"] > 0
        assert "usageMetadata" not in answer.json()
    else:
        assert (row["flags"], row["prompt_tokens"]) == ([], 5)
        assert answer.json()["usageMetadata"] == {"promptTokenCount": 5}


def test_a_model_that_takes_one_content_at_a_time_is_asked_as_often_as_it_takes(world: World) -> None:
    vendor = world.vendor("vertex")
    texts = [f"text number {number}" for number in range(20)]
    answer = world.ask("embeds-vertex", "batchEmbedContents", {"requests": [content(text) for text in texts]})
    assert answer.status_code == 200, answer.text
    asked = [request.json for request in vendor.requests if request.path.endswith(":predict")]
    assert sorted(body["instances"][0]["content"] for body in asked) == sorted(texts)
    vectors = [each["values"] for each in answer.json()["embeddings"]]
    for place in (0, 7, 19):  # in the order they were asked for
        assert (
            world.ask("embeds-vertex", "embedContent", content(texts[place])).json()["embedding"]["values"]
            == vectors[place]
        )
    vendor.forget()
    world.ask("embeds-classic", "batchEmbedContents", {"requests": [content(text) for text in texts]})
    [only] = [request.json for request in vendor.requests if request.path.endswith(":predict")]
    assert [each["content"] for each in only["instances"]] == texts


def test_one_of_many_that_fails_fails_the_call_as_it_is(world: World) -> None:
    world.vendor("vertex").faults.append("400")
    answer = world.ask("embeds-vertex", "batchEmbedContents", {"requests": [content("a"), content("b"), content("c")]})
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_another_model_inside_a_batch_is_refused(world: World) -> None:
    vendor = world.vendor("openai")
    requests = [content("a", model="models/embeds-openai"), content("b", model="models/embeds-gemini")]
    answer = world.ask("embeds-openai", "batchEmbedContents", {"requests": requests})
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert not vendor.requests


@pytest.mark.parametrize("kind", ["openai", "azure-chat", "gemini_openai"])
def test_what_a_text_is_for_has_no_word_there_and_is_a_loss(world: World, kind: str) -> None:
    vendor = world.vendor(BY_NAME[kind])
    for config in (
        {"taskType": "CLUSTERING", "title": "t"},
        {"embedContentConfig": {"taskType": "CLUSTERING", "title": "t"}},
    ):
        answer = world.ask(f"embeds-{kind}", "embedContent", content("Hi", **config))
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-gatehouse-dropped"] == "taskType, title"
        [row] = recorded(world.gateway, [answer.headers["x-request-id"]]).values()
        assert row["dropped"] == ["taskType", "title"]
        vendor.forget()
        strict = world.ask(f"embeds-{kind}", "embedContent", content("Hi", **config), key="strict")
        assert (strict.status_code, "taskType" in strict.json()["error"]["message"]) == (400, True)
        assert not vendor.requests


@pytest.mark.parametrize("model", ["embeds-openai", "embeds-gemini", "embeds-vertex"])
@pytest.mark.parametrize("how", ["developer", "express", "project"])
def test_googles_sdk_gets_vectors_in_every_mode(world: World, model: str, how: str) -> None:
    who: Json = {"api_key": world.keys["ci"], "vertexai": how != "developer"}
    if how == "project":
        token = Credentials(token=world.keys["ci"])  # type: ignore[no-untyped-call]  # google-auth has no types
        who = {"vertexai": True, "project": "p1", "location": "us-central1", "credentials": token}
    config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=4)
    with genai.Client(http_options={"base_url": world.url}, **who) as client:
        answer = client.models.embed_content(model=model, contents="one", config=config)
    [vector] = answer.embeddings or []
    alone = world.ask(model, "embedContent", content("one", outputDimensionality=4))
    assert vector.values == alone.json()["embedding"]["values"]


PLACES = ("publishers/google", "projects/p1/locations/us-central1/publishers/google")


@pytest.mark.parametrize("place", PLACES)
def test_vertexs_paths_predict_too_and_nothing_else_is_predicted(world: World, place: str) -> None:
    headers = {"x-goog-api-key": world.keys["ci"]}
    body = {
        "instances": [{"content": "one"}, {"content": "two", "task_type": "CLUSTERING"}],
        "parameters": {"outputDimensionality": 3},
    }
    answer = world.http.post(f"/v1beta1/{place}/models/embeds-openai:predict", json=body, headers=headers)
    assert [len(each["embeddings"]["values"]) for each in answer.json()["predictions"]] == [3, 3]
    wrong = world.http.post(
        f"/v1beta1/{place}/models/embeds-openai:predict", json={"instances": [{"prompt": "a cat"}]}, headers=headers
    )
    assert (wrong.status_code, wrong.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
