// The strip of cells: rows are blocks and branches, columns are moments t. A slider scrubs through t.
import { byId } from "./elements.js";

/** A table of buttons with data-cell, data-row and data-column, and the slider `#scrub` over its columns. */
export class Strip {
  #buttons;
  #chosen = null;

  /** `changed` is called after the user chose another cell. */
  constructor(table, changed) {
    this.#buttons = [...table.querySelectorAll("button[data-cell]")];
    this.columns = JSON.parse(table.dataset.times);
    this.changed = changed;
    for (const shown of this.#buttons) {
      shown.onclick = () => this.#choose(shown);
      shown.onkeydown = event => this.#step(event, shown);
    }
    byId("scrub").oninput = () => this.#scrub(Number(byId("scrub").value));
    this.#mark(this.#buttons.find(shown => shown.getAttribute("aria-pressed") === "true") ?? this.#buttons[0]);
  }

  /** The name of the chosen cell. */
  get cell() {
    return this.#chosen?.dataset.cell;
  }

  /** Whether the chosen cell has labels. */
  get labelled() {
    return this.#chosen?.hasAttribute("data-labelled");
  }

  /** Choose a cell by its name; a name that there is not changes nothing. */
  set cell(name) {
    const wanted = this.#buttons.find(shown => shown.dataset.cell === name);
    if (wanted) this.#mark(wanted);
  }

  /** Write the strongest label of every cell into its button: {cell: [[latent, value, label], ...]}. */
  name(strongest) {
    for (const shown of this.#buttons) {
      const labelled = (strongest[shown.dataset.cell] ?? []).filter(([, , label]) => label);
      const first = labelled.find(([, , label]) => label !== "background") ?? labelled[0]; // background says the least
      shown.querySelector(".label").textContent = first?.[2].split(", ")[0] ?? "·";
      shown.title = labelled.map(([latent, , label]) => `${latent} ${label}`).join(", ");
    }
  }

  #choose(shown) {
    this.#mark(shown);
    this.changed();
  }

  #mark(shown) {
    this.#chosen = shown;
    for (const other of this.#buttons) {
      other.setAttribute("aria-pressed", String(other === shown));
      other.tabIndex = other === shown ? 0 : -1;
    }
    const column = Number(shown.dataset.column);
    byId("scrub").value = column;
    byId("scrub").setAttribute("aria-valuetext", `t = ${this.columns[column]}`);
    byId("moment").textContent = `t = ${this.columns[column]}`;
  }

  /** The cell of the same row in another column; where the row has none there, the nearest one. */
  #scrub(column) {
    const row = this.#buttons.filter(shown => shown.dataset.row === this.#chosen.dataset.row);
    const distance = shown => Math.abs(Number(shown.dataset.column) - column);
    this.#choose(row.reduce((best, shown) => (distance(shown) < distance(best) ? shown : best)));
  }

  #step(event, shown) {
    const [row, column] = [Number(shown.dataset.row), Number(shown.dataset.column)];
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const next = this.#buttons.find(other => Number(other.dataset.row) === row + down && Number(other.dataset.column) === column + right);
    if (next) {
      next.focus();
      this.#choose(next);
    }
  }
}
