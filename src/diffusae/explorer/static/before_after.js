// The pictures of one seed: before and after the edits with a slider, random latents' beside it, and the scores.
import { address, picture, short } from "./elements.js";
import { element } from "./shell.js";

/** A picture before and after, one over the other. The slider says how much of which is seen. */
const slid = ({ seed, before, after }) => {
  const top = picture(address(after), `after the edits, seed ${seed}`, { class: "after" }), line = element("span", { class: "line" });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": `before and after, seed ${seed}` });
  slider.oninput = () => {
    top.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    line.style.left = `${slider.value}%`;
    slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
  };
  slider.oninput();
  const frame = element("div", { class: "frame" }, picture(address(before), `before the edits, seed ${seed}`), top, line);
  return element("figure", { class: "slid" }, frame, slider, element("figcaption", {}, element("span", {}, "before"), element("span", {}, "after")));
};

const asText = value => (value === null ? "no data" : typeof value === "number" ? short(value) : String(value));

/** Scores of any depth as rows: {"objects": {"fish": 0.9}} becomes [["objects, fish", "0.9"]]. */
export const rowsOf = (scores, name = "") => Object.entries(scores ?? {}).flatMap(([key, value]) => {
  const own = [name, key.replaceAll("_", " ")].filter(Boolean).join(", ");
  if (Array.isArray(value)) return [[own, value.map(asText).join(", ") || "none"]];
  return value && typeof value === "object" ? rowsOf(value, own) : [[own, asText(value)]];
});

const scoresOf = (own, random) => {
  const beside = new Map(rowsOf(random));
  const head = ["score", "these edits", "random latents"].map(name => element("th", { scope: "col" }, name));
  const rows = rowsOf(own).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value), element("td", {}, beside.get(name) ?? "–")));
  return element("table", { class: "data" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
};

/** What a seed gave: {seed, before, after, random, scores, random_scores}. */
export const seedResult = given => {
  const pair = element("div", { class: "pair" }, slid(given));
  if (given.random) pair.append(element("figure", {}, element("div", { class: "frame" }, picture(address(given.random), `random latents, seed ${given.seed}`)),
    element("figcaption", {}, element("span", {}, "the same with random latents"))));
  return element("li", {}, element("h3", {}, `Seed ${given.seed}`), pair, element("div", { class: "scroll" }, scoresOf(given.scores, given.random_scores)));
};

/** A place for a seed's picture while it is made; `show` puts a preview into it. */
export const seedPreview = seed => {
  const frame = element("div", { class: "frame" });
  const item = element("li", {}, element("h3", {}, `Seed ${seed}`), element("div", { class: "pair" }, element("figure", {}, frame)));
  return { item, show: url => frame.replaceChildren(picture(url, `on the way, seed ${seed}`)) };
};
