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

const asText = value => (value === null || value === undefined ? "–" : typeof value === "number" ? short(value) : String(value));

const UPDATES = { norm_ratio: "length of its updates, times the length before", percentile: "percentile of its lengths among held-out updates" };

/**
 * The scores as rows [name, before, these edits, random latents]; a score that could not be measured
 * has the reason in its place.
 */
export const scoreRows = ({ annotator, distance, updates }, random) => {
  const rows = [], both = (name, before, own, other) => rows.push([name, before, own, other]);
  if (typeof annotator === "string") both("objects and styles", null, annotator);
  else for (const [name, value] of Object.entries(annotator)) {
    if (name !== "objects") both(name, value.before, value.after, random?.annotator[name]?.after);
    else if (typeof value === "string") both("objects", null, value);
    else rows.push(...objectRows(value, random?.annotator.objects ?? {}));
  }
  both("likeness to before (SSIM)", 1, distance.ssim, random?.distance.ssim);
  both("distance from before in the annotator’s features", 0, distance.feature_distance, random?.distance.feature_distance);
  Object.entries(updates).forEach(([name, value], place) => {
    const other = Object.values(random?.updates ?? {})[place] ?? {};
    if (typeof value === "string") return both(`edit ${name}`, null, value);
    for (const [key, words] of Object.entries(UPDATES))
      both(`edit ${name}: ${words}`, key === "percentile" ? value.percentile_before : 1, value[key], other[key]);
  });
  return rows.map(([name, ...values]) => [name, ...values.map(asText)]);
};

const objectRows = (own, random) => Object.keys({ ...own, ...random }).flatMap(noun => {
  const [mine, other] = [own[noun] ?? {}, random[noun] ?? {}];
  const share = [`${noun}: share of the picture`, mine.before ?? other.before, mine.after ?? 0, other.after];
  return mine.moved === undefined && other.moved === undefined ? [share]
    : [share, [`${noun}: moved, in sides of the picture`, 0, mine.moved, other.moved]];
});

const scoresOf = (own, random) => {
  const head = ["score", "before", "these edits", "random latents"].map(name => element("th", { scope: "col" }, name));
  const rows = scoreRows(own, random).map(([name, ...values]) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...values.map(value => element("td", {}, value))));
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
