"use strict";
// The page around the plot: rows that pass the filters are shown; the plot omits those whose colour is switched off.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const PER_PAGE = 50, MAX_COLOURS = 12, MAX_ROWS_WITH_LINES = 2000;

/** An element with properties and children; text is never parsed as HTML. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const asText = (value) =>
  value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);
const format = (value, column) =>
  value === null || value === undefined ? "–"
    : column.digits !== null ? value.toFixed(column.digits) : column.cost ? scaled(value) : short(Number(value.toPrecision(4)));
/** 1234567 -> "1.23 M". */
function scaled(value) {
  const step = Math.min(Math.max(Math.floor(Math.log10(value) / 3), 0), 6);
  return step ? `${Number((value / 1000 ** step).toPrecision(3))} ${" kMGTPE"[step]}` : short(Number(value.toPrecision(3)));
}
const heading = (column) => (column.unit ? `${column.title}, ${column.unit}` : column.title);
const last = (key) => key.split(".").at(-1);

// Choices for an axis: every column, and every setting that is a number in all rows that have it.
const axes = [
  ...data.columns.flatMap((column, i) => column.detail ? []
    : [{ label: heading(column), name: column.name, better: column.better, value: (row) => row.values[i], column: i }]),
  ...data.keys.flatMap((key, i) => key.number ? [{ label: key.name, better: "", value: (row) => row.settings[i], column: -1 }] : []),
];
// Choices for the colour of a point: its series, or a setting with few distinct values.
const colourings = [{ label: "series", names: data.series, group: (row) => row.series }];
data.keys.forEach((key, i) => {
  if (key.values.length < 2 || key.values.length > MAX_COLOURS) return;
  const numbers = new Map(key.values.map((value, number) => [JSON.stringify(value), number]));
  colourings.push({ label: key.name, names: key.values.map(asText), group: (row) => numbers.get(JSON.stringify(row.settings[i])) });
});
const columnAxis = (name) => axes.findIndex((axis) => axis.name === name);

const state = {
  x: Math.max(columnAxis("bits_per_pixel"), 0),
  y: Math.max(columnAxis("psnr_db"), 0),
  colouring: colourings[data.series.length > MAX_COLOURS && colourings.length > 1 ? 1 : 0],
  hidden: new Set(), // groups of the colouring that are switched off
  filters: data.keys.map(() => null), // a predicate for each key, or null if everything passes
  search: "",
  sort: { by: null, falling: false },
  page: 0,
  row: null,
};
let shown = data.rows;

// ---- filters

function passes(row) {
  return (!state.search || row.point.toLowerCase().includes(state.search)) &&
    state.filters.every((test, i) => !test || test(row.settings[i]));
}

function buildFilters() {
  const box = byId("filters");
  box.replaceChildren();
  state.filters = data.keys.map(() => null);
  data.keys.forEach((key, i) => {
    if (key.values.length < 2) return;
    const field = make("fieldset", {}, make("legend", { textContent: key.name }));
    field.dataset.key = key.name;
    if (key.number) buildRange(field, key, i);
    else buildWords(field, key, i);
    box.append(field);
  });
  byId("search").value = state.search = "";
}

function buildRange(field, key, i) {
  const values = key.values.filter((value) => value !== null), top = values.length - 1;
  const extent = make("div", { className: "extent" });
  const sliders = ["least", "most"].map((word, end) =>
    make("input", { type: "range", min: 0, max: top, step: 1, value: end ? top : 0, ariaLabel: `${word} ${key.name}` }));
  const update = (moved) => {
    let [low, high] = sliders.map((slider) => Number(slider.value));
    if (low > high) sliders[1 - moved].value = sliders[moved].value, low = high = Number(sliders[moved].value);
    sliders.forEach((slider) => slider.setAttribute("aria-valuetext", asText(values[Number(slider.value)])));
    extent.textContent = low === 0 && high === top ? `all, ${values[0]} to ${values[top]}` : `${values[low]} to ${values[high]}`;
    state.filters[i] = low === 0 && high === top ? null
      : (value) => value !== null && value >= values[low] && value <= values[high];
  };
  sliders.forEach((slider, moved) => slider.addEventListener("input", () => { update(moved); refresh(); }));
  update(0);
  field.append(make("div", { className: "range" }, make("span", { className: "extent", textContent: "from" }), sliders[0],
    make("span", { className: "extent", textContent: "to" }), sliders[1]), extent);
}

function buildWords(field, key, i) {
  const excluded = new Set();
  const box = make("div", { className: "words" });
  for (const value of key.values.slice(0, 40)) {
    const tick = make("input", { type: "checkbox", checked: true });
    tick.addEventListener("change", () => {
      tick.checked ? excluded.delete(JSON.stringify(value)) : excluded.add(JSON.stringify(value));
      state.filters[i] = excluded.size ? (candidate) => !excluded.has(JSON.stringify(candidate)) : null;
      refresh();
    });
    box.append(make("label", { className: "tick" }, tick, asText(value)));
  }
  field.append(box);
}

// ---- plot

const chart = new Chart(byId("plot"), {
  hover(point, x, y, announce) {
    const tip = byId("tip");
    tip.hidden = !point;
    if (!point) return;
    const lines = [data.series[point.rows[0].series], ...describe(point)];
    tip.replaceChildren(make("b", { textContent: point.rows[0].point }), ...lines.map((line) => make("span", { textContent: line })));
    const available = byId("frame").clientWidth;
    tip.style.left = `${Math.max(0, x + 14 + tip.offsetWidth > available ? x - tip.offsetWidth - 14 : x + 14)}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
    if (announce) byId("announcement").textContent = [point.rows[0].point, ...lines].join("; ");
  },
  pick(point) { select(point.rows[0]); },
});

/** The lines of the tooltip: both axes, the number of seeds, the settings. */
function describe(point) {
  const parts = [[state.x, point.x, point.ex], [state.y, point.y, point.ey]].map(([axis, value, spread]) => {
    const column = data.columns[axes[axis].column] ?? { digits: null };
    return `${axes[axis].label}: ${format(value, column)}${spread ? ` ± ${short(Number(spread.toPrecision(2)))}` : ""}`;
  });
  const row = point.rows[0];
  if (point.rows.length > 1) parts.push(`mean of ${point.rows.length} seeds`);
  data.keys.forEach((key, i) => {
    if (key.values.length > 1 && key.name !== "seed" && row.settings[i] !== null) parts.push(`${last(key.name)}: ${asText(row.settings[i])}`);
  });
  return parts;
}

function spread(values, mean) {
  return values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

/** The points to draw: rows with both values, or their means over seeds. */
function gather(rows, x, y, average) {
  const groups = new Map();
  for (const row of rows) {
    if (x.value(row) === null || y.value(row) === null || state.hidden.has(state.colouring.group(row))) continue;
    const name = average ? `${row.series} ${row.spec} ${row.point} ${row.training} ${state.colouring.group(row)}` : row;
    groups.has(name) ? groups.get(name).push(row) : groups.set(name, [row]);
  }
  return [...groups.values()].map((rows) => {
    const xs = rows.map(x.value), ys = rows.map(y.value);
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const point = { x: mean(xs), y: mean(ys), group: state.colouring.group(rows[0]), rows };
    return { ...point, ex: spread(xs, point.x), ey: spread(ys, point.y) };
  });
}

/** The Pareto front: points that no other point dominates. */
function front(points, x, y) {
  if (!x.better || !y.better || x === y) return [];
  const sx = x.better === "lower" ? 1 : -1, sy = y.better === "lower" ? 1 : -1;
  let best = Infinity;
  return [...points].sort((a, b) => sx * (a.x - b.x) || sy * (a.y - b.y)).filter((p) => sy * p.y < best && ((best = sy * p.y), true));
}

function drawPlot() {
  const x = axes[state.x], y = axes[state.y];
  const logarithmic = byId("log").checked;
  let points = gather(shown, x, y, byId("mean").checked);
  if (logarithmic) points = points.filter((p) => p.x > 0);
  const lines = new Map(), papers = new Map();
  for (const p of points) {
    const name = `${p.rows[0].series} ${p.group}`;
    lines.has(name) ? lines.get(name).push(p) : lines.set(name, [p]);
    const at = [x, y].map((axis) => axis.column < 0 ? axis.value(p.rows[0]) : p.rows[0].paper?.[axis.column]);
    const hasPaper = at.every((value) => value !== null && value !== undefined) && (x.column >= 0 || y.column >= 0);
    if (hasPaper && (!logarithmic || at[0] > 0)) papers.has(name) ? papers.get(name).at.push(at) : papers.set(name, { group: p.group, at: [at] });
  }
  const sorted = (points) => points.sort((a, b) => a.x - b.x);
  chart.draw({
    points,
    lines: byId("lines").checked ? [...lines.values()].filter((line) => line.length > 1).map(sorted) : [],
    front: byId("front").checked ? front(points, x, y) : [],
    paper: byId("paper").checked ? [...papers.values()].map(({ group, at }) => ({ group, at: at.sort((a, b) => a[0] - b[0]) })) : [],
    xLabel: x.label + (x.better ? ` (${x.better} is better)` : ""),
    yLabel: y.label + (y.better ? ` (${y.better} is better)` : ""),
    logarithmic,
    empty: shown.length ? "No point has both metrics." : "No point passes the filters.",
  });
  byId("front").disabled = !x.better || !y.better;
}

function buildLegend() {
  const box = byId("legend"), { names } = state.colouring;
  box.replaceChildren();
  state.hidden.clear();
  names.slice(0, MAX_COLOURS).forEach((name, i) => {
    const icon = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: mark(8, 8, i, 5.5), fill: colour(i) }));
    const button = make("button", { type: "button", ariaPressed: "true" }, icon, name);
    button.addEventListener("click", () => {
      state.hidden.has(i) ? state.hidden.delete(i) : state.hidden.add(i);
      button.ariaPressed = String(!state.hidden.has(i));
      drawPlot();
    });
    box.append(button);
  });
  if (names.length > MAX_COLOURS) box.append(make("span", { className: "hint", textContent: `and ${names.length - MAX_COLOURS} more` }));
  box.hidden = names.length < 2;
}

// ---- selection, controls and start

function select(row) {
  state.row = row;
  chart.choose((point) => point.rows.includes(row));
  showPoint(row);
  drawTable();
}

function refresh() {
  shown = data.rows.filter(passes);
  state.page = 0;
  byId("count").textContent = shown.length === data.rows.length
    ? `all ${shown.length.toLocaleString("en")} rows` : `${shown.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} rows`;
  drawPlot();
  drawTable();
}

function buildControls() {
  for (const [id, chosen] of [["x", state.x], ["y", state.y]]) {
    byId(id).append(...axes.map((axis, i) => make("option", { value: i, textContent: axis.label, selected: i === chosen })));
    byId(id).addEventListener("change", () => { state[id] = Number(byId(id).value); drawPlot(); });
  }
  byId("colour").append(...colourings.map((each, i) => make("option", { value: i, textContent: each.label, selected: each === state.colouring })));
  byId("colour").parentElement.hidden = colourings.length < 2;
  byId("colour").addEventListener("change", () => {
    state.colouring = colourings[Number(byId("colour").value)];
    buildLegend();
    drawPlot();
  });
  const seeds = new Set(data.rows.map((row) => row.seed)).size > 1;
  byId("mean").parentElement.hidden = !seeds;
  byId("paper").parentElement.hidden = !data.rows.some((row) => row.paper);
  byId("lines").checked = data.rows.length <= MAX_ROWS_WITH_LINES;
  for (const id of ["log", "mean", "lines", "front", "paper"]) byId(id).addEventListener("change", drawPlot);
  byId("search").addEventListener("input", () => { state.search = byId("search").value.toLowerCase(); refresh(); });
  byId("reset").addEventListener("click", () => { buildFilters(); refresh(); });
  const theme = byId("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; theme.ariaLabel = `Switch to ${isDark() ? "light" : "dark"} colours`; };
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; label(); });
  dark.addEventListener("change", label);
  label();
}

buildControls();
buildFilters();
buildLegend();
buildSections();
buildTableHead();
refresh();
if (data.rows.length) select(data.rows.find((row) => row.pictures.length) ?? data.rows[0]);
