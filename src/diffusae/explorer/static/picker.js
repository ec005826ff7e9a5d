// What an edit is about: a concept or latents of a cell, a style, or a concept of the text encoder.
import { byId, problem, remembering } from "./elements.js";
import { ask, element } from "./shell.js";

/**
 * The form that adds edits. `choices` is the page's data: cells {name: {window}}, and layers {name: concepts}.
 * `added` gets {what, intervention}.
 */
export class Picker {
  #labels = remembering();
  #styles = [];

  constructor(choices, added) {
    Object.assign(this, { choices, added });
    byId("place").onchange = () => this.#offer();
    byId("add").onsubmit = event => {
      event.preventDefault();
      this.#add(byId("place").value, byId("what").value.trim());
    };
    this.#offer();
    byId("what").addEventListener("focus", () => this.#askForStyles(), { once: true });
  }

  /** Add the edit that a link asks for, such as `#cell=down-t1.00-cond-k10&latents=373`. */
  addFrom({ cell, concept, latents, intervention }) {
    if (cell in this.choices.cells) byId("place").value = cell;
    this.#offer();
    return this.#add(byId("place").value, concept ?? latents, intervention);
  }

  /** The annotator knows them, and is loaded for them: not before somebody may want them. */
  async #askForStyles() {
    try {
      this.#styles = (await ask("steer/styles.json")).styles;
      this.#offer();
    } catch (fault) {
      problem(fault.message);
    }
  }

  /** The concepts of a place, by name. */
  async #concepts(place) {
    if (!(place in this.choices.cells)) return this.choices.layers[place] ?? [];
    const { labels } = await this.#labels(`look/labels/${place}.json`);
    return [...new Set(Object.values(labels).flat())].sort();
  }

  async #offer() {
    const place = byId("place").value, words = await this.#concepts(place).catch(() => []);
    const styles = place in this.choices.cells ? this.#styles : [];
    if (place === byId("place").value)
      byId("words").replaceChildren(...[...words, ...styles].map(value => element("option", { value })));
  }

  /** Numbers are latents, a style goes everywhere, and any other word is a concept. */
  async #add(place, text, intervention) {
    if (!text) return;
    const cell = this.choices.cells[place];
    byId("what").value = "";
    if (!cell) return this.added({ what: { layer: place, concept: text } });
    const what = /^\d+(\s*,\s*\d+)*$/.test(text) ? { latents: text.split(",").map(Number) } : { concept: text };
    const everywhere = this.#styles.includes(text) && !(await this.#concepts(place).catch(() => [])).includes(text);
    this.added({ what: { cell: place, ...what, window: cell.window }, intervention: intervention ?? (everywhere ? "global" : "spatial") });
  }
}
