// Parts of a page that keep themselves fresh: data-refresh is the seconds between two looks at `?part=1`.
// A part with an open answer, or one that is being typed into, waits.

// data-reload: the whole page, for figures that come with their charts.
const reload = document.querySelector("[data-reload]")?.dataset.reload;
const later = () => setTimeout(() => (document.hidden || document.activeElement?.matches("input, select") ? later() : location.reload()), Number(reload) * 1000);
if (reload) later();

for (const part of document.querySelectorAll("[data-refresh]")) {
  const seconds = Number(part.dataset.refresh);
  const said = document.querySelector("[data-refreshed]");
  const busy = () => part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea, button");
  const look = async () => {
    if (!document.hidden && !busy() && !part.querySelector("[data-test-answer]:not(:empty)")) {
      const url = new URL(location.href);
      url.searchParams.set("part", "1");
      try {
        const answer = await fetch(url, { headers: { Accept: "text/html" } });
        if (answer.redirected || !answer.ok) throw new Error(answer.status);
        part.innerHTML = await answer.text();
        part.dispatchEvent(new CustomEvent("gh-refreshed", { bubbles: true }));
        if (said) said.textContent = `As of ${new Date().toLocaleTimeString()}`;
      } catch {
        if (said) said.textContent = "Not refreshed: the server did not answer";
      }
    }
    setTimeout(look, seconds * 1000);
  };
  setTimeout(look, seconds * 1000);
}
