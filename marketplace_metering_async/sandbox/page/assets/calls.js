// The latest calls and what became of them; refusals by the rule that was broken; and advice.

import { count, date, el, find, lasted, list, number, seconds } from "./dom.js";
import { ask, say } from "./talk.js";

const GOOD = new Set(["Success"]);
const THROTTLED = "ThrottlingException";
let latest = null;

export function showCalls(calls, show) {
  const chosen = calls.filter((call) => show === "all" || kind(call) === show);
  list(find("calls-list"), chosen, (call) => call.number, (call) => el("li", {}, item(call)));
  find("calls-empty").hidden = calls.length > 0;
  find("calls-none").hidden = !calls.length || chosen.length > 0;
  announce(calls);
}

function kind(call) {
  if (call.code === THROTTLED) return "throttled";
  return call.code === null ? "answered" : "refused";
}

function announce(calls) {
  const newest = calls[0]?.number ?? 0;
  if (latest !== null && newest > latest) {
    const call = calls[0];
    const came = count(newest - latest, "new call", "new calls");
    say(`${came}; the latest: ${call.operation}, ${words(call)}`);
  }
  latest = newest;
}

function words(call) {
  if (call.code) return call.code;
  const verdicts = Object.entries(call.verdicts).map(([status, amount]) => `${number(amount)} ${status}`);
  return verdicts.join(", ") || (call.status === null ? "no answer" : "answered");
}

function chips(call) {
  const made = Object.entries(call.verdicts).map(([status, amount]) =>
    el("span", { class: `chip ${GOOD.has(status) ? "good" : "warn"}` }, `${number(amount)} ${status}`));
  if (call.code) made.push(el("span", { class: `chip ${call.code === THROTTLED ? "warn" : "bad"}` }, call.code));
  else if (!made.length && call.status === 200) made.push(el("span", { class: "chip good" }, "Answered"));
  if (call.fault) made.push(el("span", { class: "chip warn" }, `fault: ${call.fault}`));
  if (call.status === null) made.push(el("span", { class: "chip bad" }, "no answer"));
  return made;
}

function item(call) {
  const inside = el("div", { class: "inside" });
  const details = el("details", { ontoggle: () => { if (details.open && !inside.childNodes.length) fill(inside, call); } },
    el("summary", {},
      el("time", { class: "when", datetime: call.received }, seconds(call.received)),
      el("span", { class: "operation" }, call.operation || "unknown operation"),
      el("span", { class: "chips" }, chips(call)),
      el("span", { class: "took" }, lasted(call.seconds))),
    inside);
  return details;
}

async function fill(inside, summary) {
  let call;
  try {
    call = await ask("page/call", { number: summary.number });
  } catch (error) {
    inside.replaceChildren(el("p", { class: "soft" }, error.message));
    return;
  }
  const facts = [
    ["Call", `${number(call.number)}, ${date(call.received)}, ${seconds(call.received)} UTC`],
    ["Request id", call.request_id],
    ["Signed by", call.access_key_id && `${call.access_key_id}, ${call.region}`],
    ["Status", call.status === null ? "no answer" : call.status],
    ["Size", count(call.size, "byte", "bytes")],
    ["Rule broken", call.rule],
    ["How to fix it", call.remedy],
  ].filter(([, value]) => value);
  inside.replaceChildren(
    el("dl", {}, facts.map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])),
    ...block("Request", call.request ?? "not kept: it could not be read, or is too large", call.number),
    ...(call.results.length ? block("Verdicts", call.results.map(verdict).join("\n"), call.number) : []));
}

function block(title, value, of) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return [
    el("h3", {}, title),
    el("pre", { tabindex: "0", role: "region", "aria-label": `${title} of call ${of}` }, text)];
}

function verdict(result) {
  const record = result.UsageRecord ?? {};
  const customer = record.CustomerAWSAccountId ?? record.CustomerIdentifier ?? "";
  return `${result.Status}  ${customer} ${record.Dimension} ${record.Quantity ?? record.QuantityAsDecimal ?? 0}`;
}

export function showRefusals(refusals) {
  list(find("refusals-list"), refusals, ({ code }) => code, ({ code, count: times, rule, remedy }) =>
    el("li", {},
      el("div", { class: "row wrap" },
        el("h3", {}, code),
        el("span", { class: `chip ${code === THROTTLED ? "warn" : "bad"}` }, count(times, "time", "times"))),
      rule && el("p", { class: "soft" }, `Rule broken: ${rule}`),
      remedy && el("p", { class: "remedy" }, el("b", {}, "Fix: "), remedy)));
  find("refusals-empty").hidden = refusals.length > 0;
}

export function showAdvice(advice) {
  list(find("advice-list"), advice, ({ about }) => about, ({ says, do: what, count: times, calls }) => el("li", {},
    el("div", { class: "row" }, el("p", {}, says), el("span", { class: "chip warn" }, `${times} ×`)),
    el("p", { class: "remedy" }, el("b", {}, "Do: "), what),
    calls.length > 0 && el("p", { class: "soft" }, `Seen in ${calls.length > 1 ? "calls" : "call"} ${calls.join(", ")}`)));
  find("advice").hidden = !advice.length;
}
