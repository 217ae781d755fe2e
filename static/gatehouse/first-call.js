// "Waiting for the first request": asks every two seconds while the page is looked at, for a quarter of an hour.
import { get } from "./http.js";

for (const place of document.querySelectorAll("[data-first-call]")) {
  const text = place.querySelector("[data-first-text]");
  const dot = place.querySelector(".gh-dot");
  const until = Date.now() + 15 * 60_000;
  const look = async () => {
    if (!document.hidden) {
      try {
        const told = await get(place.dataset.firstCall);
        if (told.received) {
          dot.className = `gh-dot ${told.ok ? "gh-ok" : "gh-failed"}`;
          const link = document.createElement("a");
          link.href = told.url;
          link.className = "gh-link";
          link.textContent = told.text;
          text.replaceChildren("Received: ", link);
          return;
        }
      } catch {
        // The next look may find the server again.
      }
    }
    if (Date.now() < until) setTimeout(look, 2000);
    else text.textContent = "No request arrived. Reload the page to wait again.";
  };
  look();
}
