// How a client gets here; at the very top until the first one has.

import { el, find, list, setText } from "./dom.js";
import { notify } from "./talk.js";

let wasFirst = true;

export function showConnect({ url, environment, sdks, totals }) {
  // The page's own address works wherever the page does, also from another machine.
  setText(find("environment"), environment.replaceAll(url, location.origin));
  list(find("sdks"), sdks, ({ name }) => name, ({ name, by_environment, in_code }) => el("div", {},
    el("dt", {}, name, " ", el("span", { class: "soft" }, by_environment)),
    el("dd", {}, el("code", {}, in_code.replaceAll(url, location.origin)))));
  place(totals.calls === 0 && totals.records === 0);
}

function place(first) {
  if (first !== wasFirst) find("connect-clients").open = first;
  wasFirst = first;
  const card = find("connect");
  const column = card.parentNode;
  if (first === (column.firstElementChild === card) || card.contains(document.activeElement)) return;
  if (first) column.prepend(card);
  else column.append(card);
}

export function listen() {
  find("environment-copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText(find("environment").textContent);
      notify("Copied.");
    } catch {
      getSelection().selectAllChildren(find("environment"));
      notify("Marked; copy it with the keyboard.");
    }
  };
}
