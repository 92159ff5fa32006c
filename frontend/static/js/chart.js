// Draws every <figure data-chart> with Plotly from the JSON beside it, in the colours of the theme, again when it changes.
// A colour in the JSON may be a token: "var(--c1)", with opacity "var(--c1)/0.2".

let templates = null;

function colour(text) {
  const match = /^(var\(--[\w-]+\))(?:\/([\d.]+))?$/.exec(text);
  if (!match) return text;
  const probe = document.createElement("span");
  probe.style.color = match[1];
  document.body.append(probe);
  const rgb = getComputedStyle(probe).color;
  probe.remove();
  return match[2] ? rgb.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => `rgba(${parts.split(",").slice(0, 3).join(",")},${match[2]})`) : rgb;
}

function resolve(value) {
  if (typeof value === "string") return value.startsWith("var(--") ? colour(value) : value;
  if (Array.isArray(value)) return value.map(resolve);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner)]));
  return value;
}

export function theme() {
  return document.documentElement.dataset.theme === "light" ? "light" : "dark";
}

export async function draw(figure) {
  const plot = figure.querySelector(".plot");
  const source = document.getElementById(`${figure.dataset.chart}-data`);
  if (!plot || !source || !window.Plotly) return;
  const spec = resolve(JSON.parse(source.textContent));
  const layout = { autosize: true, ...spec.layout, template: templates[theme()] };
  await window.Plotly.react(plot, spec.data, layout, { displayModeBar: false, responsive: true, ...spec.config });
  if (plot.dataset.linked) return;
  plot.dataset.linked = "yes";
  // A point whose customdata starts with an address of this portal opens it.
  plot.on("plotly_click", (event) => {
    const data = event.points[0]?.customdata;
    const address = Array.isArray(data) ? data[0] : data;
    if (typeof address === "string" && address.startsWith("/")) location.assign(address);
  });
}

export async function drawAll(within = document) {
  if (!templates) {
    const answer = await fetch(document.getElementById("chart-script").dataset.template);
    templates = await answer.json();
  }
  for (const figure of within.querySelectorAll("figure[data-chart]")) await draw(figure);
}

document.addEventListener("themechange", () => drawAll());
document.addEventListener("htmx:afterSwap", (event) => drawAll(event.detail.target));
if (document.readyState === "complete") drawAll();
else addEventListener("load", () => drawAll());
