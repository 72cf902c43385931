// Elements from values. Text enters as text only: there is no markup made from strings here.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Keeps the nodes of items that did not change, so that focus and open details stay. With *renew*,
// a node is built once for its key, and renewed from then on.
export function list(parent, items, keyOf, build, renew = null) {
  const known = parent.known ?? new Map();
  const next = new Map();
  for (const item of items) {
    const key = String(keyOf(item));
    const stamp = JSON.stringify(item);
    const before = known.get(key);
    const kept = before && (renew || before.stamp === stamp);
    const node = kept ? before.node : build(item);
    if (before?.stamp !== stamp) renew?.(node, item);
    next.set(key, { stamp, node });
  }
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const name = focused?.getAttribute("aria-label");
  let at = parent.firstChild;
  for (const { node } of next.values()) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
  parent.known = next;
  if (focused && !focused.isConnected) refocus(parent, name);
}

// A button that changed its words, such as Cancel to Subscribe, was replaced under the finger: what
// follows the verb, whose button it is, is the same.
function refocus(parent, name) {
  const controls = [...parent.querySelectorAll("button, input, summary")];
  const alike = controls.map((control) => commonEnd(control.getAttribute("aria-label") ?? "", name ?? ""));
  const most = Math.max(...alike);
  controls[alike.indexOf(most)]?.focus();
}

function commonEnd(one, other) {
  let length = 0;
  while (length < Math.min(one.length, other.length) && one.at(-1 - length) === other.at(-1 - length)) length += 1;
  return length;
}

const numbers = new Intl.NumberFormat("en-US", { maximumFractionDigits: 6 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const days = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short" });
const dates = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });
const clocks = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour: "2-digit", minute: "2-digit", second: "2-digit" });
const hours = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", hour: "2-digit", minute: "2-digit" });

export const number = (value) => numbers.format(value);
export const short = (value) => (value < 10000 ? numbers.format(value) : compact.format(value));
export const day = (moment) => days.format(new Date(moment));
export const date = (moment) => dates.format(new Date(moment));
export const seconds = (moment) => clocks.format(new Date(moment));
export const hour = (moment) => hours.format(new Date(moment));
export const count = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;

// What a field for date and time says, which leaves out seconds that are zero.
export const utc = (local) => `${local}Z`.replace(/T(\d\d:\d\d)Z$/, "T$1:00Z");

export function lasted(value) {
  if (value >= 10) return `${value.toFixed(0)} s`;
  if (value >= 1) return `${value.toFixed(1)} s`;
  const milliseconds = value * 1000;
  return `${milliseconds >= 10 ? milliseconds.toFixed(0) : milliseconds.toFixed(1)} ms`;
}
