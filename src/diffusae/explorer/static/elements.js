// Small helpers of the pages that look and steer. Elements and requests come from shell.js.
import { ask, element, root } from "./shell.js";

/** The element of this page with an id. */
export const byId = id => document.getElementById(id);

/** A button that does something. */
export const button = (text, act, attributes = {}) => element("button", { type: "button", class: "plain", onclick: act, ...attributes }, text);

/** The address of a picture of a job, which the server gives from the start page on. */
export const address = url => (/^(\/|data:)/.test(url) ? url : root + url);

/** A picture; `alt` says what it shows. */
export const picture = (src, alt, attributes = {}) => element("img", { src, alt, ...attributes });

/** A number for people: three digits that count. */
export const short = number => String(Number(Number(number).toPrecision(3)));

/** Build part of a page anew, and give the focus back to the element that had it, by its id. */
export const keepingFocus = build => {
  const focused = document.activeElement?.id;
  build();
  if (focused) byId(focused)?.focus({ preventScroll: true });
};

/** Say what went wrong in the page's element #problem; "" takes it away. */
export const problem = text => {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
};

/** `ask` for addresses that always answer the same. The last `most` answers are kept. */
export const remembering = (most = 16) => {
  const kept = new Map();
  return path => {
    const answer = kept.get(path) ?? ask(path);
    kept.delete(path);
    kept.set(path, answer); // the address that was asked for last goes last
    answer.catch(() => kept.delete(path));
    if (kept.size > most) kept.delete(kept.keys().next().value);
    return answer;
  };
};
