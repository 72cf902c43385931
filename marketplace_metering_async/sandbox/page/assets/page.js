// The loop: ask what has changed, wait for the answer, show it.

import { listen as listenBuyers, showBuyers } from "./buyers.js";
import { showAdvice, showCalls, showRefusals } from "./calls.js";
import { listen as listenConnect, showConnect } from "./connect.js";
import { listen as listenControls, showClock, showFaults, showQuota, tick } from "./controls.js";
import { find, setText } from "./dom.js";
import { listen as listenRules, showRules } from "./rules.js";
import { ask, listen as listenToken, needsToken } from "./talk.js";
import { showUnits } from "./units.js";
import { showFigures, showUsage } from "./usage.js";

const WAIT = 15;
const HIDDEN_PAUSE = 2000;
const PACE = 5; // rest so many times as long as the sandbox took to answer: it has other things to do
const LONGEST_PAUSE = 10000;

let view = null;
let change = -1;
let asking = null;
let chosen = null;

const pause = (milliseconds) => new Promise((resume) => { setTimeout(resume, milliseconds); });

function query() {
  const form = new FormData(find("usage-tools"));
  return { by: form.getAll("by").join(","), search: form.get("search") };
}

function show() {
  showFigures(view.totals);
  showUnits(view.units);
  showUsage(view.usage, view.totals);
  showCalls(view.calls, new FormData(find("calls-form")).get("show"));
  showRefusals(view.refusals);
  showAdvice(view.advice);
  showClock(view.clock);
  showQuota(view.quota);
  showFaults(view.faults);
  showBuyers(view.products);
  showRules(view.rules);
  showConnect(view);
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
      view = await ask("page/view", { ...query(), ...after }, asking.signal);
      change = view.change;
      lost = 0;
      needsToken(false);
      show();
      live("live", "Live");
      rest = Math.min(PACE * 1000 * view.took, LONGEST_PAUSE);
    } catch (error) {
      if (error.name !== "AbortError") {
        lost += 1;
        needsToken(error.status === 403);
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
find("calls-form").addEventListener("change", () => view && show());
listenControls();
listenBuyers();
listenConnect();
listenRules();
listenToken(again);
setInterval(tick, 250);
follow();
