// Masks over a picture: rows of true and false, and their form in an edit, {height, width, rows of "0" and "1"}.

/** A mask of [height, width] cells by a test of its row and column. */
export const maskOf = ([height, width], test = () => false) =>
  Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => Boolean(test(row, column))));

/** A disc of a diameter around a point, both in cells: those whose middle lies in it, and the one under the point. */
export const disc = ([row, column], diameter) => (r, c) =>
  Math.hypot(r + 0.5 - row, c + 0.5 - column) <= diameter / 2 || (r === Math.floor(row) && c === Math.floor(column));

/** A mask moved by whole cells; what leaves the picture is lost. */
export const moved = (mask, down, right) =>
  maskOf([mask.length, mask[0].length], (row, column) => mask[row - down]?.[column - right]);

/** Whether anything is in a mask. */
export const isEmpty = mask => !mask.some(row => row.includes(true));

/** A mask in the form of an edit. */
export const toRows = mask => ({ height: mask.length, width: mask[0].length, rows: mask.map(row => row.map(Number).join("")) });

/** The mask of an edit on another grid; anything but a painted one is empty. */
export const fromRows = (painted, [height, width]) => maskOf([height, width], (row, column) => painted?.rows
  && painted.rows[Math.floor((row + 0.5) / height * painted.height)][Math.floor((column + 0.5) / width * painted.width)] === "1");
