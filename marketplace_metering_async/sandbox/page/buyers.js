// Products, their buyers, subscriptions and registration tokens.

import { count, el, find, list } from "./dom.js";
import { form } from "./controls.js";
import { order } from "./talk.js";

export function showBuyers(products) {
  list(find("buyers-list"), products, (product) => product.product_code, item);
  find("buyers-empty").hidden = products.length > 0;
}

function item(product) {
  const { product_code: code, dimensions, customers, more_customers: more } = product;
  return el("li", {},
    el("h3", {}, code),
    el("p", { class: "soft" }, dimensions.length ? `Dimensions: ${dimensions.join(", ")}` : "Any dimension"),
    el("ul", { class: "buyers", "aria-label": `Buyers of ${code}` }, customers.map((buyer) => buyerItem(code, buyer))),
    more > 0 && el("p", { class: "soft" }, `and ${count(more, "other", "others")}`),
    !customers.length && el("p", { class: "soft" }, "Anybody is taken for a buyer"),
    adding(code));
}

function buyerItem(code, { customer, subscribed }) {
  const change = subscribed ? "Cancel" : "Subscribe";
  return el("li", { class: "row" },
    el("span", {}, el("span", { class: "code" }, customer), " ",
      el("span", { class: `chip ${subscribed ? "good" : "warn"}` }, subscribed ? "subscribed" : "cancelled")),
    el("span", { class: "buttons" },
      el("button", { type: "button", class: "small", "aria-label": `${change} ${customer}`,
        onclick: () => order("buyers", { product_code: code, customer, subscribed: !subscribed },
          subscribed ? "The subscription is cancelled." : "The buyer is subscribed.") }, change),
      el("button", { type: "button", class: "small", "aria-label": `Registration token for ${customer}`,
        onclick: () => issue(code, customer) }, "Token")));
}

function adding(code) {
  const field = el("input", { name: "customer", required: true, autocomplete: "off", maxlength: "255" });
  return el("form", { class: "add", "aria-label": `Add a buyer of ${code}`, onsubmit: async (event) => {
    event.preventDefault();
    const customer = field.value.trim();
    if (customer) await order("buyers", { product_code: code, customer, subscribed: true }, "The buyer is subscribed.");
  } },
    el("label", { class: "field" }, el("span", {}, "New buyer’s account id"), field),
    el("button", { "aria-label": `Add buyer of ${code}` }, "Add"));
}

async function issue(code, customer) {
  const buyer = /^[0-9]{12}$/.test(customer) ? { customer_aws_account_id: customer } : { customer_identifier: customer };
  const told = await order("tokens", { product_code: code, ...buyer }, "A token that lives four hours.");
  if (!told) return;
  find("token").hidden = false;
  find("token-text").value = told.token;
  find("token-text").select();
}

export function listen() {
  form("product-form", async ({ product_code, dimensions, customers }, node) => {
    const parts = (text) => text.split(",").map((part) => part.trim()).filter(Boolean);
    const told = await order("products", { product_code, dimensions: parts(dimensions), customers: parts(customers) }, "The product is declared.");
    if (told) node.reset();
  });
}
