// A figure and a small chart for each dimension of a product: units are never added up over several.

import { count, day, el, find, hour, list, number, setText, short, svg } from "./dom.js";

const COLOURS = 6;
const WIDTH = 240;
const HEIGHT = 64;

export function showUnits({ hours, units, count: all }) {
  const several = new Set(units.map(({ product }) => product)).size > 1;
  list(find("units"), units.map((unit, at) => ({ ...unit, at, several, shown: hours })),
    ({ product, dimension }) => `${product}\u0000${dimension}`, build);
  find("units-empty").hidden = all > 0;
  find("units-rest").hidden = all <= units.length;
  setText(find("units-rest"), `and ${count(all - units.length, "other dimension", "others")} with fewer records, in the table`);
}

// Sums that are not whole come as texts, which are shown to the last digit; a bar takes a number.
function build({ product, dimension, quantity, records, hours, at, several, shown }) {
  const readout = el("p", { class: "soft readout" }, span(shown));
  return el("li", {},
    el("h3", {}, dimension),
    several && el("p", { class: "soft code" }, product),
    el("p", { class: "amount", title: number(quantity) }, Number(quantity) < 1e10 ? number(quantity) : short(Number(quantity))),
    el("p", { class: "soft" }, count(records, "record", "records")),
    picture(dimension, shown, hours.map(Number), at % COLOURS, readout),
    readout);
}

const moment = (at) => `${day(at)} ${hour(at)}`;
const span = (hours) => `${moment(hours[0])} to ${moment(hours.at(-1))} UTC`;

function picture(dimension, hours, values, colour, readout) {
  const most = Math.max(...values);
  const step = WIDTH / hours.length;
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": summary(dimension, hours, values, most) });
  values.forEach((value, at) => {
    const height = most && value ? Math.max((value / most) * (HEIGHT - 4), 1.5) : 0;
    const say = () => setText(readout, `${moment(hours[at])}: ${number(value)}`);
    drawn.append(svg("g", { class: "hour", onpointerenter: say, onpointerleave: () => setText(readout, span(hours)) },
      svg("rect", { class: "hit", x: at * step, y: 0, width: step, height: HEIGHT }),
      svg("rect", { class: `pillar s${colour}`, x: at * step + 1, y: HEIGHT - 1 - height, width: step - 2, height })));
  });
  drawn.append(svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }));
  return drawn;
}

function summary(dimension, hours, values, most) {
  const words = `${dimension} by hour, ${span(hours)}`;
  if (!most) return `${words}: none`;
  return `${words}: most at ${moment(hours[values.indexOf(most)])} with ${number(most)}`;
}
