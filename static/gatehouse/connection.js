// "Test connection": one call of one token, its answer beside the button. Also for buttons that come later.
import { post } from "./http.js";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-test-url]");
  if (!button) return;
  const box = button.closest("[data-test-connection]");
  const answer = box.querySelector("[data-test-answer]");
  button.disabled = true;
  answer.className = "gh-quiet";
  answer.textContent = "Asking…";
  try {
    const model = box.querySelector("[name=upstream_model]");
    const told = await post(button.dataset.testUrl, model ? { upstream_model: model.value } : {});
    answer.className = told.ok ? "gh-good" : "gh-bad";
    const status = told.status ? `${told.status} · ` : "";
    const time = told.latency_ms === null ? "" : `${told.latency_ms} ms · `;
    answer.textContent = `${status}${time}${told.message}`;
  } catch (error) {
    answer.className = "gh-bad";
    answer.textContent = error.message;
  }
  button.disabled = false;
});
