// What an edit is about: a concept or latents of a cell, a style, or a concept of the text encoder.
import { byId, problem } from "./elements.js";
import { ask, element } from "./shell.js";

/**
 * The form that adds edits. `choices` is the page's data: cells {name: {window, concepts}}, and
 * layers {name: concepts}. `added` gets {what, intervention}.
 */
export class Picker {
  styles = [];

  constructor(choices, added) {
    Object.assign(this, { choices, added });
    byId("place").onchange = () => this.#offer();
    byId("add").onsubmit = event => {
      event.preventDefault();
      this.#add(byId("place").value, byId("what").value.trim());
    };
    this.#offer();
    ask("steer/styles.json").then(({ styles }) => {
      this.styles = styles;
      this.#offer();
    }).catch(fault => problem(fault.message));
  }

  /** Add the edit that a link asks for, such as `#cell=down-t1.00-cond-k10&latents=373`. */
  addFrom({ cell, concept, latents, intervention }) {
    byId("place").value = cell in this.choices.cells ? cell : byId("place").value;
    byId("what").value = concept ?? latents;
    this.#add(byId("place").value, concept ?? latents, intervention);
  }

  #offer() {
    const { cells, layers } = this.choices, cell = cells[byId("place").value];
    const words = cell ? [...cell.concepts, ...this.styles] : layers[byId("place").value] ?? [];
    byId("words").replaceChildren(...words.map(value => element("option", { value })));
  }

  /** Numbers are latents, a style goes everywhere, and any other word is a concept. */
  #add(place, text, intervention) {
    if (!text) return;
    const cell = this.choices.cells[place];
    if (!cell) return this.added({ what: { layer: place, concept: text } });
    const what = /^\d+(\s*,\s*\d+)*$/.test(text) ? { latents: text.split(",").map(Number) } : { concept: text };
    const everywhere = this.styles.includes(text) && !cell.concepts.includes(text);
    this.added({ what: { cell: place, ...what, window: cell.window }, intervention: intervention ?? (everywhere ? "global" : "spatial") });
    byId("what").value = "";
  }
}
