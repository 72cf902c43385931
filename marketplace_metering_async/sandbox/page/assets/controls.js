// Clock, quota, faults and reset.

import { count, date, el, find, list, number, seconds, setText, utc } from "./dom.js";
import { order } from "./talk.js";

let clock = null;
let clockSeen = 0;
let quota = null;
let quotaSeen = 0;

// The sandbox's time in milliseconds, ticking here between two answers.
const clockNow = () => Date.parse(clock.now) + (performance.now() - clockSeen) * clock.speed;

export function showClock(found) {
  clock = found;
  clockSeen = performance.now();
  setText(find("clock-freeze"), clock.speed === 0 ? "Let run" : "Freeze");
  const away = Math.abs(Date.parse(clock.now) - Date.now()) > 90000;
  const pace = clock.speed === 0 ? "Stands still" : clock.speed === 1 ? "Runs in real time" : `Runs ${number(clock.speed)} times as fast`;
  setText(find("clock-note"), away ? `${pace}, away from the real time` : pace);
}

export function tick() {
  if (clock) {
    const now = clockNow();
    if (Number.isNaN(new Date(now).getTime())) return;
    setText(find("clock-time"), `${date(now)}, ${seconds(now)}`);
    find("clock-time").setAttribute("datetime", new Date(now).toISOString());
  }
  if (quota) for (const bar of find("quota-list").querySelectorAll("[role=meter]")) fillBar(bar);
}

export function showQuota(found) {
  quota = found;
  quotaSeen = performance.now();
  const rate = found.calls_per_second;
  setText(find("quota-note"), rate === null ? "No quota: every call is let through."
    : `${count(rate, "call", "calls")} a second for each access key, region and operation.`);
  const buckets = rate === null ? [] : found.buckets;
  list(find("quota-list"), buckets.map(({ account, region, operation, burst }) => ({ account, region, operation, burst })),
    ({ account, region, operation }) => [account, region, operation].join("\u0000"), bucket);
  tick();
}

function bucket({ account, region, operation, burst }) {
  const bar = el("div", { class: "bar", role: "meter", "aria-label": `Calls left, ${operation}, ${account}, ${region}`, "aria-valuemin": 0, "aria-valuemax": burst }, el("i"));
  bar.key = [account, region, operation].join("\u0000");
  return el("li", {},
    el("div", { class: "row" }, el("span", {}, operation), el("span", { class: "soft left" })),
    el("p", { class: "soft" }, `${account}, ${region}`), bar);
}

function fillBar(bar) {
  const found = quota.buckets.find(({ account, region, operation }) => [account, region, operation].join("\u0000") === bar.key);
  if (!found) return;
  const passed = (performance.now() - quotaSeen) / 1000;
  const left = Math.min(found.burst, found.left + passed * (found.calls_per_second ?? 0));
  bar.firstChild.style.width = `${(100 * left) / found.burst}%`;
  bar.classList.toggle("low", left < 1);
  bar.setAttribute("aria-valuenow", Math.floor(left));
  bar.setAttribute("aria-valuetext", `${Math.floor(left)} of ${found.burst}`);
  setText(bar.parentNode.querySelector(".left"), `${Math.floor(left)} of ${number(found.burst)} left`);
}

export function showFaults({ kinds, in_force: rules }) {
  const choice = find("faults-kind");
  if (!choice.options.length) choice.append(...kinds.map(({ kind, means }) => el("option", { value: kind }, `${means} (${kind})`)));
  const means = new Map(kinds.map((entry) => [entry.kind, entry.means]));
  list(find("faults-list"), rules.map((rule, at) => ({ rule, at })), ({ at }) => at, ({ rule, at }) => {
    const title = rule.function ? `Function ${rule.function}` : means.get(rule.kind) ?? rule.kind;
    return el("li", { class: "row" },
      el("div", {}, el("p", {}, title), el("p", { class: "soft" }, rule.function ? "Decides for itself" : scope(rule))),
      el("button", { type: "button", class: "small", "aria-label": `Remove fault ${at + 1}: ${title}`,
        onclick: () => order("faults", { remove: at }, "The fault is gone.") }, "Remove"));
  });
  find("faults-empty").hidden = rules.length > 0;
  find("faults-tools").hidden = rules.length === 0;
}

function scope(rule) {
  const often = rule.max_hits === null ? "always" : rule.max_hits === 0 ? "spent" : `${count(rule.max_hits, "time", "times")} more`;
  return [
    rule.kind,
    rule.operation ?? "any operation",
    often,
    rule.probability < 1 ? `${Math.round(rule.probability * 100)} % of calls` : null,
    rule.after ? `after ${count(rule.after, "call", "calls")}` : null,
    rule.product_code && `product ${rule.product_code}`,
    rule.customer && `customer ${rule.customer}`,
  ].filter(Boolean).join(" · ");
}

function nearMonthEnd(moment) {
  const now = new Date(moment);
  const edge = Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 1, 1);
  const month = edge - moment > 600000 ? edge : Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + 2, 1);
  return new Date(month - 600000).toISOString();
}

export function listen() {
  const set = (members, done) => order("clock", members, done);
  find("clock-hour").onclick = () => set({ advance: 3600 }, "An hour has passed.");
  find("clock-day").onclick = () => set({ advance: 86400 }, "A day has passed.");
  find("clock-month").onclick = () => set({ now: nearMonthEnd(clockNow()) }, "Ten minutes to the month’s end.");
  find("clock-freeze").onclick = () => set({ speed: clock.speed === 0 ? 1 : 0 }, clock.speed === 0 ? "The clock runs." : "The clock stands still.");
  find("clock-real").onclick = () => set({ reset: true }, "The clock shows the real time.");
  form("clock-form", ({ now, speed }) =>
    set({ now: utc(now), ...(speed === "" ? {} : { speed: Number(speed) }) }, "The clock is set."));

  form("quota-form", ({ rate }) => order("quota", { calls_per_second: Number(rate) }, "The quota is set."));
  find("quota-off").onclick = () => order("quota", { calls_per_second: null }, "There is no quota any more.");

  form("faults-form", ({ kind, operation, times, share, product_code, customer }) => order("faults", {
    add: true,
    faults: [{
      kind,
      operation: operation || null,
      max_hits: times === "" ? null : Number(times),
      probability: Number(share) / 100,
      product_code: product_code || null,
      customer: customer || null,
    }],
  }, "The fault is in force."));
  find("faults-clear").onclick = () => order("faults", { faults: [] }, "Nothing goes wrong on purpose any more.");

  const dialog = find("reset-dialog");
  find("reset").onclick = () => dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue === "yes") order("reset", {}, "The sandbox has forgotten.");
    dialog.returnValue = "";
  };
}

export function form(id, submit) {
  find(id).addEventListener("submit", (event) => {
    event.preventDefault();
    submit(Object.fromEntries(new FormData(event.currentTarget)), event.currentTarget);
  });
}
