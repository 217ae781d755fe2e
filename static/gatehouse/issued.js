// The page that shows a secret once: copying, the download, the tabs.
import { copy, given } from "./http.js";

document.querySelector("[data-copy-secret]")?.addEventListener("click", (event) => {
  copy(document.querySelector("[data-secret]").textContent, event.currentTarget);
});

document.querySelector("[data-download]")?.addEventListener("click", (event) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([given("gh-env")], { type: "text/plain" }));
  link.download = event.currentTarget.dataset.download;
  link.click();
  URL.revokeObjectURL(link.href);
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.parentElement.querySelector("pre").textContent, button));
}

const tabs = [...document.querySelectorAll("[role=tab]")];
for (const tab of tabs) {
  tab.addEventListener("click", () => {
    for (const each of tabs) {
      each.setAttribute("aria-selected", String(each === tab));
      document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
    }
  });
}
