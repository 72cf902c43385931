// Agreements over a product: what each is now, and what its buyer, the seller and AWS can do with it.

import { count, date, el, find, hour, list, setText, utc } from "./dom.js";
import { notify, order } from "./talk.js";

const MOODS = { coming: "", active: "good", closing: "warn", ended: "" };

export function agreements(code) {
  return el("div", {},
    el("ul", { class: "buyers agreements", "aria-label": `Agreements over ${code}` }),
    el("p", { class: "soft rest" }));
}

export function showAgreements(node, { agreements: latest, more_agreements: more, registration_url: url }) {
  const [rows, rest] = node.children;
  list(rows, latest.map((agreement) => ({ ...agreement, has_page: url !== null })),
    (agreement) => agreement.agreement_id, row);
  rows.hidden = !latest.length;
  setText(rest, more > 0 ? `and ${count(more, "older one", "older ones")}` : "");
  rest.hidden = more === 0;
}

function row(agreement) {
  const { customer_aws_account_id: account, customer_identifier: identifier, state, suspended } = agreement;
  const offered = buttons(agreement);
  return el("li", {},
    el("div", { class: "head" },
      el("span", { class: "code" }, account),
      el("span", { class: "chips" },
        el("span", { class: `chip ${MOODS[state]}` }, state),
        agreement.free && state !== "ended" && el("span", { class: "chip" }, "free trial"),
        suspended && el("span", { class: "chip bad" }, "suspended")),
      el("span", { class: "soft" }, times(agreement))),
    el("dl", { class: "facts" },
      fact(`Agreement ${agreement.number}`, agreement.agreement_id),
      identifier && fact("Customer", identifier),
      agreement.license_arn && fact("License", agreement.license_arn)),
    offered.length > 0 && el("div", { class: "buttons" }, offered));
}

const fact = (name, value) => el("div", {}, el("dt", {}, name), " ", el("dd", {}, value));
const moment = (at) => el("time", { datetime: at }, `${date(at)}, ${hour(at)}`);

function times({ state, begins, ends, free_until: free, closes, reason }) {
  const ended = reason ? reason[0].toUpperCase() + reason.slice(1) : "Ended";
  const said = {
    coming: () => ["Begins ", moment(begins), ends && [", ends ", moment(ends)]],
    active: () => ["Since ", moment(begins), ends && [", ends ", moment(ends)]],
    closing: () => [`${ended} `, moment(ends), closes && [", usage is taken until ", later(ends, closes)]],
    ended: () => ["From ", moment(begins), " to ", moment(ends), reason && `, ${reason}`],
  }[state]();
  return free && state !== "ended" ? [said, ", free until ", moment(free)] : said;
}

const later = (before, at) => (date(before) === date(at) ? el("time", { datetime: at }, hour(at)) : moment(at));

function buttons(agreement) {
  const { agreement_id, product_code, customer_aws_account_id, customer_identifier, license_arn, state } = agreement;
  const button = (title, onclick) => el("button", { type: "button", class: "small", onclick,
    "aria-label": `${title}, ${customer_aws_account_id}, agreement ${agreement.number} of ${product_code}` }, title);
  const does = (title, path, members, done) => button(title, () => order(path, members, done));
  const lives = state !== "ended";
  const runs = state === "coming" || state === "active";
  return [
    !runs && agreement.may_subscribe_again && does("Subscribe again", "subscribe",
      { product_code, customer_aws_account_id, customer_identifier }, "The buyer has a new agreement."),
    lives && agreement.has_page && button("Set up your account", () => setUp(agreement_id)),
    lives && button("Token", () => issue(known({ product_code, customer_aws_account_id, customer_identifier, license_arn, agreement_id }))),
    runs && does("Cancel", "cancel", { agreement_id }, "The agreement is cancelled."),
    runs && does("Expire", "expire", { agreement_id }, "The agreement has expired."),
    agreement.suspended
      ? does("Restore", "restore", { customer_aws_account_id }, "The account is restored.")
      : lives && does("Suspend", "suspend", { customer_aws_account_id }, "The account is suspended, for every product."),
  ].filter(Boolean);
}

const known = (members) => Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null));

export async function issue(buyer) {
  const answer = await order("tokens", buyer, "Here is a new token.");
  if (!answer) return;
  find("token").hidden = false;
  find("token-text").value = answer.token;
  find("token-text").focus();
  find("token-text").select();
}

// As the buyer's browser does it: a form, posted from a page of AWS to the seller's own, in a new tab.
async function setUp(agreement_id) {
  const answer = await order("set-up-account", { agreement_id });
  if (!answer) return;
  const form = el("form", { method: "post", action: answer.url, target: "_blank", rel: "noopener", hidden: true },
    Object.entries(answer.fields).map(([name, value]) => el("input", { type: "hidden", name, value })));
  document.body.append(form);
  form.submit();
  form.remove();
  notify(`Posted a token to ${answer.url} in a new tab.`);
}

export function subscribing(code) {
  const submit = async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const { account, identifier, days, since } = Object.fromEntries(new FormData(form));
    const answer = await order("subscribe", known({
      product_code: code,
      customer_aws_account_id: account.trim(),
      customer_identifier: identifier.trim() || null,
      begins: since ? utc(since) : null,
      free_trial: Number(days) > 0 ? Number(days) * 86400 : null,
    }), "The buyer is subscribed.");
    if (answer) form.reset();
  };
  return el("details", { class: "more" },
    el("summary", { "aria-label": `Subscribe a buyer to ${code}` }, "Subscribe a buyer"),
    el("form", { class: "grid-form subscribing", "aria-label": `Subscribe a buyer to ${code}`, onsubmit: submit },
      el("label", { class: "field" }, el("span", {}, "Account id, 12 digits"),
        el("input", { name: "account", required: true, pattern: "[0-9]{12}", title: "12 digits", inputmode: "numeric", maxlength: 12, autocomplete: "off" })),
      el("label", { class: "field" }, el("span", {}, "Customer identifier"),
        el("input", { name: "identifier", maxlength: 255, autocomplete: "off", placeholder: "none" })),
      el("label", { class: "field" }, el("span", {}, "Since, UTC; empty: now"),
        el("input", { name: "since", type: "datetime-local", step: 1 })),
      el("label", { class: "field" }, el("span", {}, "Free trial, days"),
        el("input", { name: "days", type: "number", min: 0, step: "any", placeholder: "none" })),
      el("div", { class: "buttons" }, el("button", { class: "main", "aria-label": `Subscribe buyer to ${code}` }, "Subscribe"))));
}
