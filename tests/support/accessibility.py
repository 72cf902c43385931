"""What makes a page usable without a mouse, without colours, and without seeing it."""

from itertools import pairwise
from typing import Any, Final

from support.chromium import Page

_CONTROLS: Final = {
    "button",
    "checkbox",
    "combobox",
    "dialog",
    "image",
    "link",
    "meter",
    "MenuListPopup",
    "radio",
    "searchbox",
    "spinbutton",
    "textbox",
    "DateTime",
    "InputTime",
    "region",
    "table",
}
_LANDMARKS: Final = {"banner", "navigation", "main", "contentinfo"}

_CONTRAST: Final = """(() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return found.length === 3 ? [...found, 1] : found;
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, at) => c * a + under[at] * (1 - a));
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      layers.push(parse(getComputedStyle(at).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    const white = [255, 255, 255];
    return layers.reverse().reduce((under, layer) => over(layer, under), white);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const weak = [];
  const judge = (text, node, colour, least) => {
    const under = ground(node);
    const found = ratio(over(parse(colour), under), under);
    if (found < least) weak.push(`${text.trim().slice(0, 40)}: ${found.toFixed(2)} of ${least}`);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent;
    const node = walker.currentNode.parentElement;
    if (!text.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const svg = node instanceof SVGElement;
    judge(text, node, svg ? style.fill : style.color, large ? 3 : 4.5);
  }
  for (const field of document.querySelectorAll("input, select, button")) {
    if (!field.checkVisibility() || ["checkbox", "radio"].includes(field.type)) continue;
    if (field.placeholder) {
      judge(field.placeholder, field, getComputedStyle(field, "::placeholder").color, 4.5);
    }
    judge(`edge of ${field.name || field.textContent}`, field.parentElement,
      getComputedStyle(field).borderTopColor, 3);
  }
  for (const shape of document.querySelectorAll("#chart .hour rect:not(.hit), .legend i")) {
    const style = getComputedStyle(shape);
    const colour = shape instanceof SVGElement ? style.fill : style.backgroundColor;
    judge(`colour ${shape.getAttribute("class")}`, shape.parentElement, colour, 3);
  }
  return [...new Set(weak)];
})()"""

_SMALL: Final = """(() => [...document.querySelectorAll("a, button, input, select, summary")]
  .filter((node) => node.checkVisibility() && !node.closest("p, .skip"))
  .map((node) => [node, (node.closest("label:not(.field)") ?? node).getBoundingClientRect()])
  .filter(([, box]) => box.width < 24 || box.height < 24)
  .map(([node, box]) => `${node.outerHTML.slice(0, 60)} ${box.width}x${box.height}`))()"""

# A phone's innerWidth grows with what does not fit; the root's clientWidth is the screen's.
_WIDE: Final = """(() => { const root = document.documentElement;
  return Math.max(0, root.scrollWidth - root.clientWidth); })()"""

_IDS: Final = """(() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  return ids.filter((id, at) => ids.indexOf(id) !== at);
})()"""

_ALIKE: Final = """(() => {
  const names = [...document.querySelectorAll("button, [aria-label]")]
    .filter((node) => node.checkVisibility())
    .map((node) => `${node.localName} ${node.getAttribute("aria-label") ?? node.textContent}`);
  return names.filter((name, at) => names.indexOf(name) !== at);
})()"""


async def obstacles(page: Page) -> list[str]:
    """Return whatever stands in somebody's way, as lines; an empty list is a good page."""
    tree = await page.tree()
    found = [*_unnamed(tree), *_disorder(tree), *_missing_landmarks(tree)]
    found += [f"too weak a contrast: {line}" for line in await page.run(_CONTRAST)]
    found += [f"too small to hit: {line}" for line in await page.run(_SMALL)]
    found += [f"named as another one: {line}" for line in await page.run(_ALIKE)]
    found += [f"id given twice: {line}" for line in await page.run(_IDS)]
    if surplus := await page.run(_WIDE):
        found.append(f"wider than the screen by {surplus} px")
    if not await page.run("document.title && document.documentElement.lang"):
        found.append("no title or no language")
    return found


def _role(node: dict[str, Any]) -> str:
    return str(node.get("role", {}).get("value", ""))


def _name(node: dict[str, Any]) -> str:
    return str(node.get("name", {}).get("value", "")).strip()


def _unnamed(tree: list[dict[str, Any]]) -> list[str]:
    return [
        f"{_role(node)} without a name"
        for node in tree
        if _role(node) in _CONTROLS and not _name(node) and _role(node) != "MenuListPopup"
    ]


def _disorder(tree: list[dict[str, Any]]) -> list[str]:
    levels = [
        int(value["value"]["value"])
        for node in tree
        if _role(node) == "heading"
        for value in node.get("properties", [])
        if value["name"] == "level"
    ]
    wrong = [] if levels[:1] == [1] and levels.count(1) == 1 else ["not exactly one h1, first"]
    steps = pairwise(levels)
    return wrong + [f"h{later} follows h{one}" for one, later in steps if later > one + 1]


def _missing_landmarks(tree: list[dict[str, Any]]) -> list[str]:
    roles = [_role(node) for node in tree]
    missing = [f"no {landmark}" for landmark in sorted(_LANDMARKS) if landmark not in roles]
    return missing + ([] if roles.count("main") == 1 else ["not exactly one main"])
