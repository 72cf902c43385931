// The loop: ask what has changed, wait for the answer, show it.

import { listen as listenBuyers, showBuyers } from "./buyers.js";
import { showCalls, showRefusals } from "./calls.js";
import { drawHours } from "./chart.js";
import { listen as listenControls, showClock, showFaults, showQuota, tick } from "./controls.js";
import { find, setText } from "./dom.js";
import { ask } from "./talk.js";
import { showFigures, showUsage } from "./usage.js";

const WAIT = 15;
const HIDDEN_PAUSE = 2000;
const PACE = 5; // rest so many times as long as the sandbox took to answer: it has other things to do
const LONGEST_PAUSE = 10000;

let told = null;
let change = -1;
let asking = null;
let chosen = null;

const pause = (milliseconds) => new Promise((resume) => { setTimeout(resume, milliseconds); });

function query() {
  const form = new FormData(find("usage-tools"));
  return { by: form.getAll("by").join(","), search: form.get("search") };
}

function show() {
  showFigures(told.totals);
  drawHours(told.hours, () => drawHours(told.hours));
  showUsage(told.usage, told.totals);
  showCalls(told.calls, new FormData(find("calls-form")).get("show"));
  showRefusals(told.refusals);
  showClock(told.clock);
  showQuota(told.quota);
  showFaults(told.faults);
  showBuyers(told.products);
  setText(find("environment"), told.environment);
}

function live(state, text) {
  find("live").dataset.state = state;
  setText(find("live-text"), text);
}

async function follow() {
  let lost = 0;
  for (;;) {
    asking = new AbortController();
    const fresh = chosen !== JSON.stringify(query()) || lost > 0;
    chosen = JSON.stringify(query());
    let rest = 0;
    try {
      const after = fresh ? {} : { after: change, wait: WAIT };
      told = await ask("page/view", { ...query(), ...after }, asking.signal);
      change = told.change;
      lost = 0;
      show();
      live("live", "Live");
      rest = Math.min(PACE * 1000 * told.took, LONGEST_PAUSE);
    } catch (error) {
      if (error.name !== "AbortError") {
        lost += 1;
        live("lost", error instanceof TypeError ? "No contact with the sandbox" : error.message);
        rest = Math.min(500 * lost, 5000);
      }
    }
    asking = null;
    await pause(document.hidden ? Math.max(rest, HIDDEN_PAUSE) : rest);
  }
}

const again = () => asking?.abort();
let typing = 0;
find("usage-tools").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(again, 150);
});
find("usage-tools").addEventListener("submit", (event) => event.preventDefault());
find("calls-form").addEventListener("change", () => told && show());
listenControls();
listenBuyers();
setInterval(tick, 250);
follow();
