// Maps over a picture. A map is drawn position by position on a canvas as small as its grid; the browser
// stretches the canvas smoothly over the picture.

// Some colours of matplotlib's inferno, from 0 to the largest value: as in the report.
const COLOURS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

/** The colour of a share from 0 to 1, as [red, green, blue]. */
export const heat = share => {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((value, i) => value + (COLOURS[below + 1][i] - value) * (place - below));
};

/** Draw values, row by row over [h, w], on a canvas: from `least`, which is dark, to the largest, which is bright. */
export const drawMap = (canvas, values, [height, width], least = 0, opacity = 0.65) => {
  [canvas.width, canvas.height] = [width, height];
  const picture = new ImageData(width, height), most = Math.max(...values);
  values.forEach((value, i) => {
    picture.data.set([...heat(most > least ? (value - least) / (most - least) : 0), 255 * opacity], 4 * i);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
};

/** Take a map away. */
export const clearMap = canvas => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);

/** The map of one latent from the codes of all positions: its value where it is active, 0 elsewhere. */
export const mapOf = ({ indices, values }, latent) => indices.map((active, position) => {
  const place = active.indexOf(latent);
  return place < 0 ? 0 : Math.max(values[position][place], 0);
});

/** The latents that are active at a position, the strongest first: [[latent, value], ...]. */
export const activeAt = ({ indices, values }, position) => indices[position]
  .map((latent, i) => [latent, values[position][i]])
  .filter(([, value]) => value > 0)
  .sort((a, b) => b[1] - a[1]);

/** The same place in another grid: the position that covers the middle of the old one. */
export const samePlace = ([row, column], [oldHeight, oldWidth], [height, width]) =>
  [Math.floor((row + 0.5) / oldHeight * height), Math.floor((column + 0.5) / oldWidth * width)];
