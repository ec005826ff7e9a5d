// A window of t as a range: two sliders over one rail, from t = 1 at the left to t = 0 at the right.
import { element } from "./shell.js";

/** The field of a window [first, last]; `change` gets a new one. `id` begins the ids of its sliders. */
export const windowField = (id, window, change) => {
  const shown = element("output", {}), bar = element("span", { class: "filled" });
  const slider = (end, label) => element("input", { type: "range", id: `${id}-${end}`, min: 0, max: 1, step: 0.05, "aria-label": label });
  const first = slider("first", "first t of the window"), last = slider("last", "last t of the window");
  [first.value, last.value] = window;
  const draw = () => {
    shown.textContent = `t ${Number(first.value)} to ${Number(last.value)}`;
    Object.assign(bar.style, { left: `${100 * (1 - first.value)}%`, right: `${100 * last.value}%` });
  };
  first.oninput = () => {
    first.value = Math.max(first.value, last.value);
    draw();
  };
  last.oninput = () => {
    last.value = Math.min(first.value, last.value);
    draw();
  };
  first.onchange = last.onchange = () => change([Number(first.value), Number(last.value)]);
  draw();
  const range = element("span", { class: "range" }, element("span", { class: "rail" }), bar, first, last);
  return element("div", { class: "field", role: "group", "aria-label": "window of t" }, element("span", {}, "window"), range, shown);
};
