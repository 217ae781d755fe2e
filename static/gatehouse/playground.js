// The playground: sends what the form says, shows the answer as it comes, then what the record says of it.
import { copy, csrf, get } from "./http.js";

const room = document.querySelector("[data-playground]");
if (room) {
  const form = room.querySelector("form");
  const at = (name) => room.querySelector(`[data-${name}]`);
  const problem = at("problem"), talk = at("talk"), facts = at("facts"), stop = at("stop");
  let history = [], running = null;

  const element = (tag, text, kind = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = kind;
    return made;
  };

  async function models() {
    const select = form.elements.model;
    const wanted = select.value || room.dataset.model;
    select.replaceChildren();
    try {
      const told = await get(`${room.dataset.models}?key=${encodeURIComponent(form.elements.key.value)}`);
      for (const name of told.models) select.append(new Option(name, name, false, name === wanted));
      problem.textContent = told.problem;
    } catch (error) {
      problem.textContent = error.message;
    }
    curl();
  }

  function question(contents) {
    const body = { contents };
    const { system, temperature, tokens } = form.elements;
    if (system.value.trim()) body.systemInstruction = { parts: [{ text: system.value }] };
    const config = {};
    if (temperature.value.trim()) config.temperature = Number(temperature.value.replace(",", "."));
    if (tokens.value.trim()) config.maxOutputTokens = Number(tokens.value);
    if (Object.keys(config).length) body.generationConfig = config;
    return body;
  }

  const asked = () => [...history, { role: "user", parts: [{ text: form.elements.prompt.value }] }];

  function curl() {
    const stream = form.elements.stream.checked;
    const action = stream ? "streamGenerateContent?alt=sse" : "generateContent";
    const body = JSON.stringify(question(asked())).replaceAll("'", "'\\''");
    at("curl").textContent = `curl ${stream ? "-N " : ""}"${room.dataset.base}/v1beta/models/${form.elements.model.value}:${action}" \\\n  -H "x-goog-api-key: YOUR_KEY" -H "Content-Type: application/json" \\\n  -d '${body}'`;
    at("raw-request").textContent = JSON.stringify(question(asked()), null, 2);
  }

  // Lines of JSON as they arrive.
  async function* lines(answer) {
    const decoder = new TextDecoder();
    const reader = answer.body.getReader();
    for (let held = ""; ; ) {
      const { done, value } = await reader.read();
      held += decoder.decode(value || new Uint8Array(), { stream: !done });
      const whole = held.split("\n");
      held = whole.pop();
      for (const line of whole) if (line.trim()) yield JSON.parse(line);
      if (done) return;
    }
  }

  function add(chunk, said, thought) {
    for (const part of chunk.candidates?.[0]?.content?.parts || []) {
      if (part.text) (part.thought ? thought : said).textContent += part.text;
      if (part.functionCall) said.textContent += `${part.functionCall.name}(${JSON.stringify(part.functionCall.args || {})})`;
    }
  }

  async function send() {
    problem.textContent = facts.textContent = "";
    curl();
    const contents = asked();
    if (!history.length) talk.replaceChildren();
    const thought = element("div", "", "gh-quiet"), said = element("div", "", "gh-said");
    talk.append(element("div", form.elements.prompt.value, "gh-asked"), thought, said);
    const raw = [];
    let id = "", reason = "", usage = null, broken = false;
    const started = performance.now();
    let first = 0;
    running = new AbortController();
    stop.hidden = false;
    try {
      const answer = await fetch(room.dataset.send, {
        method: "POST",
        signal: running.signal,
        headers: { "Content-Type": "application/json", "X-CSRFToken": csrf() },
        body: JSON.stringify({ key: form.elements.key.value, model: form.elements.model.value, stream: form.elements.stream.checked, body: question(contents) }),
      });
      if (!answer.ok && answer.status !== 400) throw new Error(`The server answered ${answer.status}.`);
      for await (const line of lines(answer)) {
        if (line.id) id = line.id;
        const error = line.error || line.chunk?.error;
        if (line.chunk) {
          raw.push(line.chunk);
          first ||= performance.now() - started;
          add(line.chunk, said, thought);
          usage = line.chunk.usageMetadata || usage;
          reason = line.chunk.candidates?.[0]?.finishReason || line.chunk.promptFeedback?.blockReason || reason;
        }
        if (error) {
          broken = true;
          if (!line.chunk) raw.push({ error });
          said.append(element("div", `${error.code || ""} ${error.status || ""} ${error.message}`.trim(), "gh-bad"));
        }
      }
      if (!broken && said.textContent) {
        history = [...contents, { role: "model", parts: [{ text: said.textContent }] }];
        form.elements.prompt.value = "";
      }
    } catch (error) {
      said.append(element("div", error.name === "AbortError" ? "Stopped." : error.message, "gh-bad"));
    }
    running = null;
    stop.hidden = true;
    at("raw-answer").textContent = raw.map((chunk) => JSON.stringify(chunk, null, 2)).join("\n");
    const times = `${Math.round(first)} ms to the first chunk, ${Math.round(performance.now() - started)} ms in all`;
    facts.textContent = [reason, usage && `${usage.promptTokenCount || 0} tokens in, ${usage.candidatesTokenCount || 0} out`, times].filter(Boolean).join(" · ");
    if (id) record(id);
  }

  // What the ledger says of the call: it is there about a second later.
  async function record(id) {
    for (let tries = 0; tries < 10; tries += 1) {
      await new Promise((done) => setTimeout(done, 400));
      const told = await get(`${room.dataset.record}?id=${id}`);
      if (!told.found) continue;
      const link = element("a", told.deployment || "the record", "gh-link");
      link.href = told.url;
      facts.replaceChildren(`${told.status} · ${told.tokens} · ${told.cost} · ${told.total} · `, link);
      return;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) send();
  });
  stop.addEventListener("click", () => running?.abort());
  at("clear").addEventListener("click", () => {
    history = [];
    talk.replaceChildren();
    facts.textContent = "";
    curl();
  });
  form.elements.key.addEventListener("change", models);
  form.addEventListener("input", curl);
  at("copy-curl").addEventListener("click", (event) => copy(at("curl").textContent, event.currentTarget));
  models();
}
