"use strict";
// The table, the details of one point, and the static sections.

/** Columns of the table: the point, its settings, metrics, and costs that differ between rows. */
function tableColumns() {
  const varies = (i) => data.rows.some((row) => row.values[i] !== data.rows[0].values[i]);
  const columns = [{ title: "point", left: true, value: (row) => row.point }];
  if (data.series.length > 1) columns.push({ title: "series", left: true, value: (row) => data.series[row.series] });
  data.keys.forEach((key, i) => {
    if (key.values.length > 1)
      columns.push({ title: last(key.name), left: !key.number, value: (row) => row.settings[i], text: (row) => asText(row.settings[i]) });
  });
  data.columns.forEach((column, i) => {
    if (!column.detail && (!column.cost || varies(i)))
      columns.push({ title: column.title, unit: column.unit, value: (row) => row.values[i], text: (row) => format(row.values[i], column) });
  });
  return columns;
}

let columns = [];

function buildTableHead() {
  columns = tableColumns();
  const line = make("tr");
  columns.forEach((column, i) => {
    const button = make("button", { type: "button" }, column.title, column.unit ? make("small", { textContent: column.unit }) : null);
    button.addEventListener("click", () => {
      state.sort = { by: i, falling: state.sort.by === i && !state.sort.falling };
      state.page = 0;
      drawTable();
    });
    line.append(make("th", { scope: "col", className: column.left ? "left" : "" }, button));
  });
  byId("table").tHead.append(line);
  const turnPage = (by) => () => { state.page += by; drawTable(); };
  byId("before").addEventListener("click", turnPage(-1));
  byId("after").addEventListener("click", turnPage(1));
}

/** Rows sorted by the selected column, those without a value last. */
function sorted(rows) {
  const { by, falling } = state.sort;
  if (by === null) return rows;
  const value = columns[by].value, sign = falling ? -1 : 1;
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
    : asText(a).localeCompare(asText(b), "en", { numeric: true });
  const hasValue = (row) => value(row) !== null && value(row) !== undefined;
  return [...rows.filter(hasValue).sort((a, b) => sign * compare(value(a), value(b))), ...rows.filter((row) => !hasValue(row))];
}

function drawTable() {
  const rows = sorted(shown), start = state.page * PER_PAGE, end = Math.min(start + PER_PAGE, rows.length);
  [...byId("table").tHead.rows[0].cells].forEach((cell, i) => {
    if (i === state.sort.by) cell.setAttribute("aria-sort", state.sort.falling ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    cell.firstChild.dataset.arrow = i === state.sort.by ? (state.sort.falling ? "▾" : "▴") : "";
  });
  byId("table").tBodies[0].replaceChildren(...rows.slice(start, end).map((row) => {
    const line = make("tr", { className: row === state.row ? "pick selected" : "pick" });
    if (row === state.row) line.setAttribute("aria-current", "true");
    line.addEventListener("click", () => select(row));
    const name = make("button", { type: "button", textContent: row.point });
    line.append(...columns.map((column, i) =>
      make("td", { className: column.left ? "left" : "" }, i ? (column.text ?? column.value)(row) : name)));
    return line;
  }));
  byId("page").textContent = rows.length ? `${start + 1}–${end} of ${rows.length.toLocaleString("en")}` : "no rows";
  byId("before").disabled = start === 0;
  byId("after").disabled = end === rows.length;
}

// ---- one point

/** A definition list of names and values; values may be text or nodes. */
function list(entries) {
  return make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", {}, value)]));
}

function group(title, entries) {
  return entries.length ? make("div", {}, make("h3", { textContent: title }), list(entries)) : null;
}

function showPoint(row) {
  const code = (text) => make("code", { textContent: text });
  const measured = [], costs = [];
  data.columns.forEach((column, i) => {
    const value = row.values[i], paper = row.paper?.[i];
    if ((value === null || value === undefined) && (paper === null || paper === undefined)) return;
    const number = `${format(value, column)}${column.unit ? ` ${column.unit}` : ""}`;
    const text = make("span", {}, make("span", { className: "value", textContent: number }));
    if (paper !== null && paper !== undefined) text.append(make("span", { className: "of", textContent: ` (the paper: ${short(paper)})` }));
    (column.cost ? costs : measured).push([column.title, text]);
  });
  const set = data.keys.flatMap((key, i) => row.settings[i] === null || key.name === "seed" ? [] : [[key.name, asText(row.settings[i])]]);
  set.push(...row.overrides.map(([key, value]) => [key, asText(value)]));
  const about = [["series", data.series[row.series]], ["spec", data.specs[row.spec]], ["seed", asText(row.seed)],
    ["spec hash", code(row.hash)], ["folder", code(row.folder)]];
  const pictures = row.pictures.map((i) => {
    const { title, source } = data.pictures[i];
    return make("figure", {}, make("figcaption", { textContent: title }), make("img", { src: source, alt: `${title} of ${row.point}` }));
  });
  byId("point-heading").textContent = `Point ${row.point}`;
  byId("point").replaceChildren(
    pictures.length ? make("div", { className: "pictures" }, ...pictures)
      : make("p", { className: "hint" }, "No picture of this point is in the page; see ", code(`${row.folder}/samples`), "."),
    make("div", { className: "facts" }, ...[group("Measured", measured), group("Set", set), group("Cost", costs), group("Which", about)].filter(Boolean)));
}

// ---- static sections

function fill(table, heads, rows) {
  table.append(make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { className: "left", scope: "col", textContent: head })))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, i) =>
      make("td", { className: i === cells.length - 1 ? "left wrap" : "left" }, cell))))));
}

function buildSections() {
  byId("title").textContent = data.title;
  byId("description").textContent = [data.description, data.source].filter(Boolean).join(" · ");
  byId("expect").hidden = !data.expect;
  byId("expect").textContent = `The paper: ${data.expect}`;
  for (const tile of data.tiles)
    byId("tiles").append(make("li", { className: tile.bad ? "bad" : "" }, make("b", { textContent: tile.value }), make("span", { textContent: tile.name })));
  byId("notice").hidden = !data.notices.length;
  byId("notice").append(...data.notices.map((notice) => make("span", { textContent: `${notice} ` })));
  if (data.compared.length) {
    byId("compared").hidden = false;
    const signed = (value, unit) => value === null ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(2)} ${unit}`;
    fill(byId("compared").querySelector("table"), ["series", "against", "BD-rate", "BD-PSNR", "note"],
      data.compared.map((entry) => [entry.series, entry.anchor, signed(entry.rate, "%"), signed(entry.psnr, "dB"), entry.why]));
  }
  if (data.failed.length) {
    byId("failed").hidden = false;
    fill(byId("failed").querySelector("table"), ["point", "series", "seed", "status", "error"],
      data.failed.map((row) => [row.point, row.series, asText(row.seed), row.status, row.error]));
  }
  data.protocols.forEach((protocol) => {
    if (data.protocols.length > 1) byId("protocols").append(make("p", { className: "hint", textContent: `${protocol.rows} rows` }));
    byId("protocols").append(list(protocol.entries.map(([name, value]) => [name, asText(value)])));
  });
  if (!data.protocols.length) byId("protocols").append(make("p", { className: "hint", textContent: "Nothing has been measured yet." }));
  byId("footer").textContent = data.footer;
}
