// Products, with their agreements, and buyers without one.

import { agreements, issue, showAgreements, subscribing } from "./agreements.js";
import { count, el, find, list, setText } from "./dom.js";
import { form } from "./controls.js";
import { order } from "./talk.js";

export function showBuyers(products) {
  list(find("buyers-list"), products, (product) => product.product_code, item, showProduct);
  find("buyers-empty").hidden = products.length > 0;
}

// Built once and kept, so that what is being typed into its forms stays when its buyers change.
function item({ product_code: code }) {
  const parts = {
    title: el("h3"),
    code: el("p", { class: "soft code" }, code),
    facts: el("p", { class: "soft" }),
    page: el("p", { class: "soft breaks" }),
    agreements: agreements(code),
    buyers: el("ul", { class: "buyers", "aria-label": `Buyers of ${code} without agreement` }),
    rest: el("p", { class: "soft" }),
    subscribing: subscribing(code),
    adding: adding(code),
  };
  const node = el("li", {}, Object.values(parts));
  node.parts = parts;
  return node;
}

function showProduct({ parts }, product) {
  const { product_code: code, title, dimensions, customers, more_customers: more, registration_url: url } = product;
  setText(parts.title, title || code);
  parts.code.hidden = !title;
  setText(parts.facts, [
    dimensions.length ? `Dimensions: ${dimensions.join(", ")}` : "Any dimension",
    product.concurrent_agreements && "concurrent agreements",
  ].filter(Boolean).join("; "));
  setText(parts.page, url === null
    ? "No registration URL; “Set up your account” needs one" : `Registration URL: ${url}`);
  showAgreements(parts.agreements, product);
  list(parts.buyers, customers, (buyer) => buyer.customer, (buyer) => buyerItem(code, buyer));
  parts.buyers.hidden = !customers.length;
  setText(parts.rest, product.open ? "Anybody is taken for a buyer" : more > 0 ? `and ${count(more, "other", "others")}` : "");
  parts.rest.hidden = !parts.rest.textContent;
  parts.subscribing.querySelector("[name=identifier]").closest("label").hidden = product.concurrent_agreements;
}

function buyerItem(code, { customer, subscribed }) {
  const change = subscribed ? "Cancel" : "Subscribe";
  const buyer = /^[0-9]{12}$/.test(customer) ? { customer_aws_account_id: customer } : { customer_identifier: customer };
  return el("li", { class: "row" },
    el("span", {}, el("span", { class: "code" }, customer), " ",
      el("span", { class: `chip ${subscribed ? "good" : "warn"}` }, subscribed ? "subscribed" : "cancelled")),
    el("span", { class: "buttons" },
      el("button", { type: "button", class: "small", "aria-label": `${change} ${customer}, buyer of ${code}`,
        onclick: () => order("buyers", { product_code: code, customer, subscribed: !subscribed },
          subscribed ? "The subscription is cancelled." : "The buyer is subscribed.") }, change),
      el("button", { type: "button", class: "small", "aria-label": `Token for ${customer}, buyer of ${code}`,
        onclick: () => issue({ product_code: code, ...buyer }) }, "Token")));
}

function adding(code) {
  const field = el("input", { name: "customer", required: true, autocomplete: "off", maxlength: "255" });
  return el("details", { class: "more" },
    el("summary", { "aria-label": `Add a buyer without agreement to ${code}` }, "Add a buyer without agreement"),
    el("form", { class: "add", "aria-label": `Add a buyer without agreement to ${code}`, onsubmit: async (event) => {
      event.preventDefault();
      const customer = field.value.trim();
      if (!customer) return;
      const answer = await order("buyers", { product_code: code, customer, subscribed: true }, "The buyer is subscribed.");
      if (answer) field.value = "";
    } },
      el("label", { class: "field" }, el("span", {}, "New buyer’s account id"), field),
      el("button", { "aria-label": `Add buyer to ${code}` }, "Add")));
}

export function listen() {
  form("product-form", async ({ product_code, title, dimensions, customers, registration_url, concurrent }, node) => {
    const parts = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);
    const answer = await order("products", {
      product_code,
      title: title.trim(),
      dimensions: parts(dimensions),
      customers: parts(customers),
      registration_url: registration_url.trim() || null,
      concurrent_agreements: concurrent !== undefined,
    }, "The product is declared.");
    if (answer) node.reset();
  });
}
