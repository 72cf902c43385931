// The figures at the top, and the table of what was metered.
// Its roles are named, since a narrow screen lays rows out as blocks, which would lose them.

import { count, date, el, find, hour, list, number, setText, short } from "./dom.js";

const TITLES = { product: "Product", customer: "Customer", dimension: "Dimension", hour: "Hour, UTC" };
const CLASSES = { product: "product code", customer: "customer code", dimension: "dimension", hour: "hour" };
let before = null;

export function showFigures(totals) {
  const quiet = "";
  const figures = [
    ["Records", totals.records, quiet],
    ["Calls", totals.calls, quiet],
    ["Refused", totals.refused, totals.refused ? "bad" : quiet],
    ["Throttled", totals.throttled, totals.throttled ? "warn" : quiet],
    ["Faults hit", totals.hits, totals.hits ? "warn" : quiet],
  ];
  list(find("figures"), figures, ([name]) => name, ([name, value, mood]) =>
    el("div", { class: mood }, el("dt", {}, name), el("dd", { title: number(value) }, value < 1e7 ? number(value) : short(value))));
}

export function showUsage({ by, count: all, rows }, totals) {
  const columns = [...by.map((name) => [name, TITLES[name]]), ["quantity", "Units"], ["records", "Records"]];
  list(find("usage-columns"), columns, ([name]) => name, ([name, title]) =>
    el("th", { scope: "col", role: "columnheader", class: name === "quantity" || name === "records" ? "number" : null }, title));
  const arriving = before !== null && before.by === by.join() ? before.keys : null;
  const keys = new Set();
  list(find("usage-rows"), rows, (row) => by.map((name) => row[name]).join("\u0000"), (row) => {
    const key = JSON.stringify(row);
    return el("tr", { role: "row", class: arriving && !arriving.has(key) ? "new" : null },
      by.map((name) => el("td", { role: "cell", class: CLASSES[name] }, cell(name, row[name]))),
      row.quantity === null
        ? el("td", { role: "cell", class: "number several" }, "several units")
        : el("td", { role: "cell", class: "number quantity" }, number(row.quantity)),
      el("td", { role: "cell", class: "number records" }, number(row.records)));
  });
  for (const row of rows) keys.add(JSON.stringify(row));
  before = { by: by.join(), keys };
  const regions = totals.regions.length > 1 ? `Counted in each region for itself: ${totals.regions.join(", ")}. ` : "";
  const hidden = all > rows.length ? `the first ${number(rows.length)} of ${count(all, "row", "rows")}` : count(all, "row", "rows");
  setText(find("usage-caption"), all ? `What was metered: ${hidden}` : "What was metered: nothing to show");
  setText(find("usage-note"), `${regions}By hour, UTC`);
}

const cell = (name, value) => (name === "hour" ? `${date(value)}, ${hour(value)}` : value);
