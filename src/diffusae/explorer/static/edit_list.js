// The list of edits on the page: one card an edit, with its place, strength and window of t.
import { button, keepingFocus } from "./elements.js";
import { INTERVENTIONS, isPainted, isText, lacks, rangeOf, REGIONS, withIntervention } from "./edits.js";
import { element } from "./shell.js";
import { windowField } from "./window_range.js";

const OUTSIDE = { subtract: "push it away elsewhere", keep: "leave the rest alone" };
const FROM = { source: "push it away where it was" };

/** What an edit is, in words: "fish in down-t1.00-cond-k10". */
export const titleOf = edit => {
  const what = edit.concept ?? `latent${edit.latents.length > 1 ? "s" : ""} ${edit.latents.join(", ")}`;
  return `${what} in ${edit.layer ?? edit.cell}`;
};

const choice = (text, id, options, chosen, change) => {
  const made = Object.entries(options).map(([value, words]) => element("option", { value, selected: value === chosen }, words));
  const select = element("select", { id, onchange: () => change(select.value) }, ...made);
  return element("label", { class: "field" }, element("span", {}, text), select);
};

/** Shows edits in the list `shown`. A change of the user's calls `changed` with a new list of edits. */
export class EditList {
  chosen = 0; // the edit that is painted
  #edits = [];

  /** `nothing`: an empty painted place; `chose` is called with the chosen edit whenever the list is shown. */
  constructor(shown, { nothing, changed, chose }) {
    Object.assign(this, { shown, nothing, changed, chose });
  }

  show(edits) {
    this.#edits = edits;
    this.chosen = Math.max(Math.min(this.chosen, edits.length - 1), 0);
    keepingFocus(() => this.shown.replaceChildren(...edits.map((edit, place) => this.#card(edit, place))));
    this.chose(edits[this.chosen]);
  }

  /** Change what an edit has. */
  put(place, change) {
    const next = edit => Object.fromEntries(Object.entries({ ...edit, ...change }).filter(([, value]) => value !== undefined));
    this.changed(this.#edits.map((edit, other) => (other === place ? next(edit) : edit)));
  }

  #choose(place) {
    this.chosen = place;
    this.show(this.#edits);
  }

  #swap(place, other) {
    const edits = [...this.#edits];
    [edits[place], edits[other]] = [edits[other], edits[place]];
    this.chosen = other;
    this.changed(edits);
  }

  #card(edit, place) {
    const card = element("li", { class: "edit" }, this.#head(edit, place));
    card.classList.toggle("chosen", place === this.chosen);
    card.classList.toggle("off", !edit.enabled);
    if (!isText(edit)) card.append(this.#intervention(edit, place));
    if (!isText(edit) && edit.intervention !== "global") card.append(this.#region(edit, place));
    if (edit.intervention === "spatial") card.append(this.#outside(edit, place));
    card.append(this.#strength(edit, place));
    if (edit.window) card.append(windowField(`edit-${place}`, edit.window, window => this.put(place, { window })));
    if (lacks(edit)) card.append(element("p", { class: "note" }, lacks(edit)));
    return card;
  }

  #head(edit, place) {
    const title = titleOf(edit), last = this.#edits.length - 1;
    const small = (name, text, label, act, more) => button(text, act, { id: `edit-${place}-${name}`, "aria-label": `${label} ${title}`, ...more });
    const on = element("input", { type: "checkbox", id: `edit-${place}-on`, checked: edit.enabled, onchange: () => this.put(place, { enabled: on.checked }) });
    const head = element("div", { class: "head" }, element("label", {}, on, element("b", {}, `${place + 1}. ${title}`)));
    if (isPainted(edit)) head.append(small("paint", "Paint", "paint", () => this.#choose(place), { "aria-pressed": String(place === this.chosen) }));
    head.append(
      small("up", "↑", "earlier:", () => this.#swap(place, place - 1), { disabled: place === 0 }),
      small("down", "↓", "later:", () => this.#swap(place, place + 1), { disabled: place === last }),
      small("remove", "Remove", "remove", () => this.changed(this.#edits.filter((_, other) => other !== place))));
    return head;
  }

  #intervention(edit, place) {
    const words = Object.fromEntries(Object.entries(INTERVENTIONS).map(([name, { words }]) => [name, words]));
    const change = name => this.changed(this.#edits.map((one, other) => (other === place ? withIntervention(one, name, this.nothing) : one)));
    return choice("do", `edit-${place}-intervention`, words, edit.intervention, change);
  }

  #region(edit, place) {
    const anywhere = edit.intervention === "spatial" ? {} : { "": "everywhere" };
    const options = { ...anywhere, painted: "where I paint", ...Object.fromEntries(REGIONS.map(name => [name, name.replace("_", " ")])) };
    const change = name => this.put(place, { region: name === "painted" ? this.nothing : name || undefined, source: undefined });
    return choice("where", `edit-${place}-region`, options, isPainted(edit) ? "painted" : edit.region ?? "", change);
  }

  /** What is done outside of the region. A source is kept only as long as it is chosen here. */
  #outside(edit, place) {
    const options = { ...(edit.source ? FROM : {}), ...OUTSIDE }, chosen = edit.source ? "source" : edit.outside ?? "subtract";
    return choice("and", `edit-${place}-outside`, options, chosen, name => this.put(place, { source: undefined, outside: name === "keep" ? name : undefined }));
  }

  #strength(edit, place) {
    const { min, max, step } = rangeOf(edit), id = `edit-${place}-strength`, name = isText(edit) ? "lambda" : "strength";
    const change = input => { if (input.value !== "") this.put(place, { strength: Number(input.value) }); };
    const number = element("input", { type: "number", id: `${id}-number`, step: "any", value: edit.strength, "aria-label": `${name} as a number`, onchange: () => change(number) });
    const slider = element("input", { type: "range", id, min, max, step, value: edit.strength, onchange: () => change(slider) });
    slider.addEventListener("input", () => { number.value = slider.value; });
    return element("div", { class: "field" }, element("label", { for: id }, name), slider, number);
  }
}
