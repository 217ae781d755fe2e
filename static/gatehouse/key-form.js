// The key form: the list of patterns shows when it counts, with what it matches; so does the date.
import { get } from "./http.js";

const patterns = document.getElementById("id_allowed_models");
const choices = document.querySelectorAll("input[name=access]");

const select = document.querySelector("select[name=expires_at_0]");
if (select) {
  const date = document.querySelector("input[name=expires_at_1]");
  const box = date.closest(".gh-date") || date;
  const show = () => (box.hidden = select.value !== "custom");
  select.addEventListener("change", show);
  show();
}

if (patterns && choices.length) {
  const row = patterns.closest(".field-row, .form-row, .field-line, .group") || patterns.parentElement;
  const show = () => {
    const chosen = document.querySelector("input[name=access]:checked");
    row.hidden = !chosen || chosen.value !== "these";
  };
  choices.forEach((choice) => choice.addEventListener("change", show));
  show();
  preview();
}

function matches(pattern, name) {
  const parts = pattern.trim().split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "s").test(name);
}

async function preview() {
  const place = document.createElement("div");
  const count = document.createElement("p");
  count.className = "gh-quiet";
  const picks = document.createElement("div");
  picks.className = "gh-picks";
  place.append(count, picks);
  patterns.insertAdjacentElement("afterend", place);

  const belongs = document.getElementById("id_belongs_to");
  const organization = () => (belongs ? belongs.value.split("/")[0] : "");
  let names = [];

  const draw = () => {
    const given = patterns.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const hit = names.filter((name) => given.some((pattern) => matches(pattern, name)));
    count.textContent = names.length ? `Matches ${hit.length} of ${names.length} models` : "There are no models yet.";
    picks.replaceChildren(
      ...names.slice(0, 60).map((name) => {
        const pick = document.createElement("button");
        pick.type = "button";
        pick.textContent = name;
        if (hit.includes(name)) pick.className = "gh-ok";
        pick.addEventListener("click", () => {
          const kept = given.includes(name) ? given.filter((each) => each !== name) : [...given, name];
          patterns.value = kept.join("\n");
          draw();
        });
        return pick;
      }),
    );
  };
  const load = async () => {
    const base = document.querySelector("[data-models-url]");
    const key = location.pathname.match(/virtualkey\/([0-9a-f-]{36})\//);
    const query = key ? `key=${key[1]}` : `organization=${organization()}`;
    try {
      names = (await get(`${base ? base.dataset.modelsUrl : "/admin/models.json"}?${query}`)).models;
    } catch {
      names = [];
    }
    draw();
  };
  patterns.addEventListener("input", draw);
  if (belongs) belongs.addEventListener("change", load);
  load();
}
