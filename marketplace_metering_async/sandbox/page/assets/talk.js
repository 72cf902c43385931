// What the page asks the sandbox, and what it orders.

import { find } from "./dom.js";

// The token, where one is needed, comes in the fragment of the address, which is never sent, or is
// typed in; the tab keeps it for when it is loaded again.
const KEPT = "sandbox token";
let token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token) {
  sessionStorage.setItem(KEPT, token);
  history.replaceState(null, "", location.pathname);
}
token ??= sessionStorage.getItem(KEPT);

const headers = () => (token ? { "X-Sandbox-Token": token } : {});

export function needsToken(needed) {
  find("token-form").hidden = !needed;
}

export function listen(done) {
  find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = new FormData(event.currentTarget).get("token").trim();
    sessionStorage.setItem(KEPT, token);
    event.currentTarget.reset();
    done();
  });
}

export async function ask(path, query = {}, signal = undefined) {
  const answer = await fetch(`/_sandbox/${path}?${new URLSearchParams(query)}`, {
    headers: headers(),
    signal,
    cache: "no-store",
  });
  if (!answer.ok) {
    const text = (await answer.text()).trim() || `status ${answer.status}`;
    throw Object.assign(new Error(text), { status: answer.status });
  }
  return answer.json();
}

// Returns what the sandbox answered, or null if it refused; either way a notice says so.
export async function order(path, members, done) {
  try {
    const answer = await fetch(`/_sandbox/${path}`, {
      method: "POST",
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify(members),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text.trim() || `status ${answer.status}`);
    if (done) notify(done);
    return JSON.parse(text);
  } catch (error) {
    notify(`That did not work: ${error.message}`, "bad");
    return null;
  }
}

let clearing = 0;

export function notify(text, kind = "") {
  const notice = find("notice");
  notice.dataset.kind = kind;
  notice.textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => { notice.textContent = ""; }, kind === "bad" ? 10000 : 4000);
}

let saidAt = 0;
let toSay = 0;

// For screen readers: at most a sentence in three seconds, and then the latest.
export function say(text) {
  clearTimeout(toSay);
  toSay = setTimeout(() => {
    saidAt = Date.now();
    find("said").textContent = text;
  }, Math.max(0, saidAt + 3000 - Date.now()));
}
