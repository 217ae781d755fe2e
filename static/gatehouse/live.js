// Live requests: every second the rows that are new, on top; a hidden page rests.
const button = document.querySelector("[data-live]");
const body = document.querySelector("[data-rows]");
const MOST = 200;
let timer = 0;

async function look() {
  if (!document.hidden) {
    const url = new URL(button.dataset.live, location.href);
    const newest = body.querySelector("tr")?.dataset.id;
    if (newest) url.searchParams.set("after", newest);
    try {
      const answer = await fetch(url, { headers: { Accept: "text/html" } });
      if (answer.redirected || !answer.ok) throw new Error(answer.status);
      const made = document.createElement("template");
      made.innerHTML = `<table><tbody>${await answer.text()}</tbody></table>`;
      const rows = [...made.content.querySelectorAll("tr")];
      for (const row of rows) row.classList.add("gh-new");
      body.prepend(...rows);
      if (rows.length) {
        document.querySelector("[data-table]").hidden = false;
        document.querySelector("[data-empty]")?.remove();
      }
      for (const old of [...body.children].slice(MOST)) old.remove();
      mark("gh-ok");
    } catch {
      mark("gh-failed");
    }
  }
  if (timer) timer = setTimeout(look, 1000);
}

function mark(kind) {
  if (timer) button.querySelector(".gh-dot").className = `gh-dot ${kind}`;
}

if (button) {
  const wanted = new URL(location.href).searchParams.get("live") === "1";
  const toggle = (on) => {
    button.setAttribute("aria-pressed", String(on));
    clearTimeout(timer);
    timer = on ? setTimeout(look, 0) : 0;
    if (!on) button.querySelector(".gh-dot").className = "gh-dot";
    const url = new URL(location.href);
    if (on) url.searchParams.set("live", "1");
    else url.searchParams.delete("live");
    history.replaceState(null, "", url);
  };
  button.addEventListener("click", () => toggle(button.getAttribute("aria-pressed") !== "true"));
  if (wanted) toggle(true);
}
