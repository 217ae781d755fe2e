// Charts: Chart.js (already on the page), data from the page, colours from the theme.
import { given } from "./http.js";

const PALETTE = ["#6366f1", "#14b8a6", "#f59e0b", "#ec4899", "#3b82f6", "#84cc16", "#94a3b8"];
const OUTCOMES = { Success: "#22c55e", "Rate limited": "#f59e0b", Error: "#ef4444", "Client left": "#94a3b8" };

const usd = (value) =>
  value === 0 ? "$0" : value >= 1000 ? `$${Math.round(value / 100) / 10}K` : value >= 1 ? `$${value.toFixed(2)}` : `$${Number(value.toPrecision(2))}`;
const count = (value) =>
  value >= 1e6 ? `${Math.round(value / 1e5) / 10}M` : value >= 1e3 ? `${Math.round(value / 100) / 10}K` : String(value);
const time = (value) => (value >= 1000 ? `${Math.round(value / 100) / 10} s` : `${Math.round(value)} ms`);

const KINDS = {
  spend: { type: "bar", stacked: true, unit: usd, colour: (label, at) => (label === "Other" ? "#94a3b8" : PALETTE[at % PALETTE.length]) },
  requests: { type: "bar", stacked: true, unit: count, colour: (label) => OUTCOMES[label] },
  ttft: { type: "line", stacked: false, unit: time, colour: (label, at) => ["#6366f1", "#f59e0b"][at] },
};

const UNITS = { usd, count, ms: time };

// A chart that is not in the table says in its data attributes what it is.
function kindOf(canvas) {
  const { chart, type, unit } = canvas.dataset;
  return KINDS[chart] || { type, stacked: type === "bar", unit: UNITS[unit], colour: KINDS.spend.colour };
}

const shown = [];

function theme() {
  const style = getComputedStyle(document.documentElement);
  return { grid: style.getPropertyValue("--gh-line").trim(), text: style.getPropertyValue("--gh-faint").trim() };
}

// links: where a click on the bars of a label leads.
function draw(canvas, labels, series, links) {
  const kind = kindOf(canvas);
  const { grid, text } = theme();
  const datasets = series
    .filter((each) => kind.type === "line" || each.data.some((value) => value))
    .map((each, at) => ({
      ...each,
      backgroundColor: kind.colour(each.label, at),
      borderColor: kind.colour(each.label, at),
      borderWidth: kind.type === "line" ? 2 : 0,
      borderRadius: 2,
      pointRadius: 0,
      pointHitRadius: 12,
      tension: 0.25,
      spanGaps: true,
      maxBarThickness: 26,
    }));
  const axis = { stacked: kind.stacked, border: { display: false }, ticks: { color: text, maxRotation: 0, autoSkipPadding: 14 } };
  shown.push(
    new Chart(canvas, {
      type: kind.type,
      data: { labels, datasets },
      options: {
        responsive: true,
        maintainAspectRatio: false,
        animation: false,
        interaction: { mode: "index", intersect: false },
        ...(links && {
          onClick: (_event, hit) => hit.length && location.assign(links[hit[0].index]),
          onHover: (event, hit) => (event.native.target.style.cursor = hit.length ? "pointer" : ""),
        }),
        scales: {
          x: { ...axis, grid: { display: false } },
          y: { ...axis, beginAtZero: true, grid: { color: grid }, ticks: { ...axis.ticks, maxTicksLimit: 5, callback: kind.unit } },
        },
        plugins: {
          legend: { display: datasets.length > 0 && !("plain" in canvas.dataset), position: "bottom", labels: { color: text, boxWidth: 9, boxHeight: 9, usePointStyle: true } },
          tooltip: { callbacks: { label: (item) => ` ${item.dataset.label}: ${kind.unit(item.parsed.y)}` } },
        },
      },
    }),
  );
}

const charts = given("gh-charts");
if (charts) {
  Chart.defaults.font.family = "Inter, sans-serif";
  Chart.defaults.font.size = 12;
  for (const canvas of document.querySelectorAll("[data-chart]")) draw(canvas, charts.labels, charts[canvas.dataset.chart], charts.links);
  // The theme switch changes a class of <html>: follow it.
  new MutationObserver(() => {
    const { grid, text } = theme();
    for (const chart of shown) {
      chart.options.scales.y.grid.color = grid;
      for (const axis of Object.values(chart.options.scales)) axis.ticks.color = text;
      chart.options.plugins.legend.labels.color = text;
      chart.update();
    }
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
}
