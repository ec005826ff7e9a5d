// Painting on a picture with pointer or keys: paint, erase, or drag what is painted to another place.
import { disc, fromRows, isEmpty, maskOf, moved, toRows } from "./masks.js";

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const REGION = "rgb(255 170 0 / 60%)", SOURCE = "rgb(0 170 255 / 55%)", POINTER = "rgb(255 255 255 / 60%)";

/**
 * Two masks over a picture: the region of an edit, and its source, from where an object is taken.
 *
 * Arrow keys move the brush and the space bar paints under it. The tool "drag" lifts what is painted
 * under the brush, or a disc where nothing is painted, and puts it down where the pointer goes; with
 * keys the space bar lifts and puts down.
 */
export class Brush {
  tool = "paint"; // or "erase", "drag"
  size = 3; // the diameter, in cells
  #grid;
  #region;
  #source;
  #at = null; // where the brush is, [row, column] in cells
  #pointing = false; // whether the brush itself is shown
  #from = null; // the last point of a stroke, or where something was lifted; null: neither goes on
  #lifted = null; // what is dragged, at the place where it was lifted

  /** `canvas` lies over the picture; `painted` gets {region, source} in the form of an edit after each stroke. */
  constructor(canvas, grid, painted) {
    Object.assign(this, { canvas, painted });
    this.#grid = grid;
    [canvas.height, canvas.width] = grid;
    this.show({});
    canvas.onpointerdown = event => this.#down(event);
    canvas.onpointermove = event => this.#move(event);
    canvas.onpointerup = () => this.#end();
    canvas.onpointercancel = () => this.#end();
    canvas.onpointerleave = canvas.onblur = () => { if (!this.#from) this.#point(false); };
    canvas.onkeydown = event => this.#key(event);
  }

  /** Show the region and the source of an edit; a named region is not painted. `off`: nothing can be painted. */
  show({ region, source }, off = false) {
    this.#region = fromRows(region, this.#grid);
    this.#source = fromRows(source, this.#grid);
    this.off = off;
    this.canvas.classList.toggle("disabled", off);
    this.#from = this.#lifted = null;
    this.#draw();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect(), [height, width] = this.#grid;
    return [(event.clientY - box.top) / box.height * height, (event.clientX - box.left) / box.width * width];
  }

  #point(pointing) {
    this.#pointing = pointing;
    this.#draw();
  }

  #down(event) {
    if (this.off || event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#begin(this.#place(event));
  }

  #move(event) {
    if (this.off) return;
    this.#at = this.#place(event);
    if (this.#from) this.#stroke();
    else this.#point(true);
  }

  #begin(place) {
    this.#at = this.#from = place;
    if (this.tool === "drag") {
      const [row, column] = place.map(Math.floor);
      this.#lifted = this.#region[row]?.[column] ? this.#region : maskOf(this.#grid, disc(place, this.size));
      this.#source = this.#lifted;
    }
    this.#stroke();
  }

  #stroke() {
    if (this.#lifted) this.#region = moved(this.#lifted, ...[0, 1].map(axis => Math.round(this.#at[axis] - this.#from[axis])));
    else this.#line();
    this.#draw();
  }

  /** Paint from the last point to this one, so that a quick stroke has no gaps. */
  #line() {
    const [from, to] = [this.#from, this.#at], points = Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])) + 1;
    for (let i = 1; i <= points; i++) {
      const inside = disc(from.map((value, axis) => value + (to[axis] - value) * i / points), this.size);
      this.#region = maskOf(this.#grid, (row, column) => (inside(row, column) ? this.tool !== "erase" : this.#region[row][column]));
    }
    this.#from = to;
  }

  #end() {
    if (!this.#from) return;
    this.#from = this.#lifted = null;
    this.painted({ region: toRows(this.#region), source: isEmpty(this.#source) ? undefined : toRows(this.#source) });
  }

  #key(event) {
    const move = MOVES[event.key], limits = this.#grid;
    if (this.off || (!move && event.key !== " ")) return;
    event.preventDefault();
    const place = this.#at ?? limits.map(length => Math.floor(length / 2) + 0.5);
    if (move) {
      this.#at = place.map((value, axis) => Math.min(Math.max(value + move[axis], 0.5), limits[axis] - 0.5));
      return this.#lifted ? this.#stroke() : this.#point(true);
    }
    const putsDown = this.#lifted !== null;
    if (!putsDown) this.#begin(place);
    if (putsDown || !this.#lifted) this.#end();
  }

  #draw() {
    const drawing = this.canvas.getContext("2d"), under = this.#pointing && !this.off && disc(this.#at, this.size);
    drawing.clearRect(0, 0, this.#grid[1], this.#grid[0]);
    maskOf(this.#grid, (row, column) => {
      const colour = under && !this.#lifted && under(row, column) ? POINTER : this.#region[row][column] ? REGION : this.#source[row][column] ? SOURCE : null;
      if (!colour) return;
      drawing.fillStyle = colour;
      drawing.fillRect(column, row, 1, 1);
    });
  }
}
