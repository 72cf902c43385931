// The switches of Rules: those that are not as usual, and a form to turn one.

import { form } from "./controls.js";
import { el, find, list, setText } from "./dom.js";
import { order } from "./talk.js";

let rules = [];

const words = (name) => name.replaceAll("_", " ");
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function said({ kind, value }) {
  if (kind === "seconds") return `${value} s`;
  if (kind === "texts") return value.length ? `${value.length} named` : "everywhere";
  return String(value);
}

export function showRules(found) {
  const first = !rules.length;
  rules = found;
  const changed = rules.filter(({ value, usual }) => !same(value, usual));
  list(find("rules-list"), changed, ({ name }) => name, (rule) => el("li", { class: "row" },
    el("div", {}, el("p", {}, words(rule.name)), el("p", { class: "soft" }, `${said(rule)}, usually ${said({ ...rule, value: rule.usual })}`)),
    el("button", { type: "button", class: "small", "aria-label": `Usual ${words(rule.name)}`,
      onclick: () => order("rules", { [rule.name]: rule.usual }, "The rule is as usual.") }, "Usual")));
  find("rules-empty").hidden = changed.length > 0;
  if (!first) return;
  find("rules-name").append(...rules.map(({ name }) => el("option", { value: name }, words(name))));
  offer();
}

const chosen = () => rules.find(({ name }) => name === find("rules-name").value);

function offer() {
  const rule = chosen();
  setText(find("rules-means"), rule.means);
  const field = (title, control) => el("label", { class: "field" }, el("span", {}, title), control);
  find("rules-value").replaceChildren({
    choice: () => field("Reading", el("select", { name: "value" }, rule.choices.map((choice) =>
      el("option", { value: JSON.stringify(choice), selected: same(choice, rule.value) }, same(choice, rule.usual) ? `${choice} (usual)` : String(choice))))),
    seconds: () => field("Seconds", el("input", { name: "value", type: "number", min: 0, step: "any", required: true, value: rule.value })),
    texts: () => field("Regions, by comma; empty: everywhere", el("input", { name: "value", autocomplete: "off", value: rule.value.join(", ") })),
  }[rule.kind]());
}

export function listen() {
  find("rules-name").addEventListener("change", offer);
  form("rules-form", ({ name, value }) => {
    const read = {
      choice: () => JSON.parse(value),
      seconds: () => Number(value),
      texts: () => value.split(",").map((part) => part.trim()).filter(Boolean),
    };
    order("rules", { [name]: read[chosen().kind]() }, "The rule holds.");
  });
}
