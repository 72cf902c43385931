// Hours as bars, a colour for each dimension; the table beside it says the same in words.

import { count, day, el, find, hour, list, number, setText, short, svg } from "./dom.js";

const COLOURS = 6;
const REST = "all others";
let shown = "";
let watched = null;

export function drawHours(exact, redraw) {
  // Sums that are not whole come as texts; for bars and words a number is near enough.
  const hours = exact.map((entry) => ({ ...entry, quantities: numbersOf(entry.quantities) }));
  const box = find("chart");
  if (!watched) {
    watched = new ResizeObserver(() => redraw());
    watched.observe(box);
  }
  const stamp = JSON.stringify([hours, box.clientWidth, box.clientHeight]);
  if (stamp === shown || box.clientWidth < 100) return; // narrower, it is not laid out yet
  shown = stamp;
  const names = ranked(hours);
  box.replaceChildren(picture(hours, names, box.clientWidth, box.clientHeight));
  list(find("legend"), names.map((name, at) => [name, at]), ([name]) => name, ([name, at]) =>
    el("li", {}, el("i", { class: `s${at}`, "aria-hidden": "true" }), name));
  tell(null);
}

const numbersOf = (texts) => Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, Number(text)]));

function ranked(hours) {
  const sums = new Map();
  for (const { quantities } of hours) {
    for (const [name, quantity] of Object.entries(quantities)) {
      sums.set(name, (sums.get(name) ?? 0) + quantity);
    }
  }
  const names = [...sums.entries()].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([name]) => name);
  return names.length <= COLOURS ? names : [...names.slice(0, COLOURS - 1), REST];
}

const total = (quantities) => Object.values(quantities).reduce((sum, value) => sum + value, 0);

function parts(quantities, names) {
  const found = names.map((name) => [name, Object.hasOwn(quantities, name) ? quantities[name] : 0]);
  const rest = total(quantities) - found.reduce((sum, [, value]) => sum + value, 0);
  if (rest > 0) found[found.length - 1][1] += rest;
  return found;
}

function picture(hours, names, width, height) {
  const left = 46, right = 4, top = 12, bottom = 38;
  const most = Math.max(0, ...hours.map(({ quantities }) => total(quantities)));
  const high = nice(most);
  const y = (value) => top + (height - top - bottom) * (1 - value / high);
  const step = (width - left - right) / hours.length;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary(hours, most) });
  for (const share of high >= 4 || most === 0 ? [0.5, 1] : [1]) {
    if (most === 0) break;
    drawn.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(high * share), y2: y(high * share) }),
      svg("text", { x: left - 8, y: y(high * share) + 4, "text-anchor": "end" }, short(high * share)));
  }
  drawn.append(svg("text", { x: left - 8, y: y(0) + 4, "text-anchor": "end" }, "0"));
  hours.forEach((entry, at) => drawn.append(bar(entry, names, left + at * step, step, y, height - bottom, top)));
  drawn.append(svg("line", { class: "base", x1: left, x2: width - right, y1: y(0), y2: y(0) }));
  const every = step >= 40 ? 1 : step >= 22 ? 3 : 6;
  hours.forEach(({ hour: moment }, at) => {
    const of_day = new Date(moment).getUTCHours();
    const x = left + (at + 0.5) * step;
    if (of_day % every === 0) drawn.append(svg("text", { x, y: height - 20, "text-anchor": "middle" }, hour(moment)));
    if (of_day === 0 || (at === 0 && (24 - of_day) * step > 90)) {
      drawn.append(svg("text", { x, y: height - 4, "text-anchor": at ? "middle" : "start" }, day(moment)));
    }
  });
  if (most === 0) {
    drawn.append(svg("text", { x: (left + width) / 2, y: height / 2, "text-anchor": "middle" }, "No usage in these hours"));
  }
  return drawn;
}

function bar(entry, names, x, step, y, floor, top) {
  const gap = Math.min(6, step * 0.22);
  const group = svg("g", { class: "hour", onpointerenter: () => tell(entry), onpointerleave: () => tell(null) },
    svg("rect", { class: "hit", x, y: top, width: step, height: floor - top, rx: 4 }));
  let below = 0;
  parts(entry.quantities, names).forEach(([, value], at) => {
    if (!value) return;
    const height = Math.max(y(below) - y(below + value), 1.5);
    group.append(svg("rect", { class: `s${at}`, x: x + gap / 2, y: y(below) - height, width: step - gap, height, rx: Math.min(2, height / 2) }));
    below += value;
  });
  return group;
}

function nice(most) {
  if (most <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 5, 10].map((factor) => factor * unit).find((value) => value >= most);
}

function summary(hours, most) {
  const sum = hours.reduce((all, { quantities }) => all + total(quantities), 0);
  const range = `${day(hours[0].hour)} ${hour(hours[0].hour)} to ${day(hours.at(-1).hour)} ${hour(hours.at(-1).hour)} UTC`;
  if (!sum) return `Units by hour, ${range}: none`;
  const peak = hours.find(({ quantities }) => total(quantities) === most);
  return `Units by hour, ${range}: ${number(sum)} in all, most at ${day(peak.hour)} ${hour(peak.hour)} with ${number(most)}`;
}

function tell(entry) {
  const text = entry
    ? `${day(entry.hour)} ${hour(entry.hour)}: ${count(total(entry.quantities), "unit", "units")}`
    : "";
  setText(find("readout"), text);
}
