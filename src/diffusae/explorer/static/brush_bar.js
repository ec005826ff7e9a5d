// The tools of the brush on the page, and what they do to the edit that is painted.
import { Brush } from "./brush.js";
import { isPainted, isText } from "./edits.js";
import { titleOf } from "./edit_list.js";
import { byId } from "./elements.js";

const KEYS = "With keys: arrows move the brush, the space bar";
const HOW = {
  paint: `Paint where the edit acts. ${KEYS} paints.`,
  erase: `Erase what is painted. ${KEYS} erases.`,
  drag: `Paint over an object, then drag it to its new place; where nothing is painted, the brush takes what is under it. ${KEYS} lifts and puts down.`,
};

/** The brush over the picture. `changed` gets what a stroke changes of the edit that is shown. */
export class BrushBar {
  #edit = null;

  constructor(grid, changed) {
    this.changed = changed;
    this.brush = new Brush(byId("brush"), grid, painted => this.#painted(painted));
    for (const tool of document.querySelectorAll("input[name=tool]"))
      tool.onchange = () => {
        this.brush.tool = tool.value;
        this.show(this.#edit);
      };
    byId("size").oninput = () => {
      this.brush.size = Number(byId("size").value);
      byId("size-shown").textContent = byId("size").value;
    };
    byId("size").oninput();
    this.brush.tool = document.querySelector("input[name=tool]:checked").value;
  }

  /** Show the edit that is painted; undefined: there is none. */
  show(edit) {
    this.#edit = edit;
    const paints = edit !== undefined && isPainted(edit);
    this.brush.show(edit ?? {}, !paints);
    byId("painting").textContent = paints ? `Painting: ${titleOf(edit)}. ${HOW[this.brush.tool]}` : this.#hint(edit);
  }

  #hint(edit) {
    if (edit === undefined) return "Add an edit to paint where it acts.";
    return isText(edit) || edit.intervention === "global" ? "The chosen edit acts everywhere, so nothing is painted."
      : "The chosen edit has a named place. Choose “where I paint” in it to paint.";
  }

  /** Only an edit that puts something somewhere has a source; an object that was dragged is such an edit. */
  #painted({ region, source }) {
    this.changed(this.#edit.intervention === "spatial" ? { region, source, ...(source && { outside: undefined }) } : { region });
  }
}
