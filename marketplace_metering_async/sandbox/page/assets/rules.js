// The readings of what the service's pages leave open: those that are not as usual, and all of them.

import { form } from "./controls.js";
import { el, find, list, setText } from "./dom.js";
import { order } from "./talk.js";

let readings = [];

const words = (name) => name.replaceAll("_", " ");
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function said({ form: kind }, value) {
  if (kind === "seconds") return `${value} s`;
  if (kind === "texts") return value.length ? `${value.length} named` : "everywhere";
  return String(value);
}

const now = (reading) => (same(reading.value, reading.usual) ? `${said(reading, reading.usual)} (usual)`
  : `${said(reading, reading.value)}, usually ${said(reading, reading.usual)}`);

export function showRules(found) {
  const first = !readings.length;
  readings = found;
  const changed = readings.filter(({ value, usual }) => !same(value, usual));
  list(find("rules-list"), changed, (reading) => reading.switch, (reading) => el("li", { class: "row" },
    el("div", {}, el("p", {}, words(reading.switch)), el("p", { class: "soft" }, now(reading))),
    el("button", { type: "button", class: "small", "aria-label": `Usual ${words(reading.switch)}`,
      onclick: () => order("rules", { [reading.switch]: reading.usual }, "The rule is as usual.") }, "Usual")));
  find("rules-empty").hidden = changed.length > 0;
  list(find("rules-readings"), readings, (reading) => reading.switch, (reading) => el("li", {},
    el("div", { class: "row" }, el("h3", {}, words(reading.switch)),
      el("button", { type: "button", class: "small", "aria-label": `Turn ${words(reading.switch)}`, onclick: () => turn(reading.switch) }, "Turn")),
    el("p", { class: "soft" }, reading.means),
    el("p", { class: "soft" }, `${reading.open ? "Open" : "Documented"}: ${reading.source}`),
    el("p", {}, now(reading))));
  if (!first) return;
  find("rules-name").append(...readings.map((reading) => el("option", { value: reading.switch }, words(reading.switch))));
  offer();
}

const chosen = () => readings.find((reading) => reading.switch === find("rules-name").value);

function turn(name) {
  find("rules-turn").open = true;
  find("rules-name").value = name;
  offer();
  find("rules-name").focus();
}

function offer() {
  const reading = chosen();
  setText(find("rules-means"), reading.means);
  const field = (title, control) => el("label", { class: "field" }, el("span", {}, title), control);
  find("rules-value").replaceChildren({
    choice: () => field("Reading", el("select", { name: "value" }, reading.choices.map((choice) =>
      el("option", { value: JSON.stringify(choice), selected: same(choice, reading.value) }, same(choice, reading.usual) ? `${choice} (usual)` : String(choice))))),
    seconds: () => field("Seconds", el("input", { name: "value", type: "number", min: 0, step: "any", required: true, value: reading.value })),
    texts: () => field("Regions, by comma; empty: everywhere", el("input", { name: "value", autocomplete: "off", value: reading.value.join(", ") })),
  }[reading.form]());
}

export function listen() {
  find("rules-name").addEventListener("change", offer);
  for (const preset of ["usual", "strict", "kind"]) {
    find(`rules-${preset}`).onclick = () => order("rules", { preset }, `The rules are ${preset}.`);
  }
  form("rules-form", ({ name, value }) => {
    const read = {
      choice: () => JSON.parse(value),
      seconds: () => Number(value),
      texts: () => value.split(",").map((part) => part.trim()).filter(Boolean),
    };
    order("rules", { [name]: read[chosen().form]() }, "The rule holds.");
  });
}
