// The page "look": what the latents of every cell do in one picture, position by position.
import { address, button, byId, picture, problem, remembering, short } from "./elements.js";
import { JobPanel } from "./job_panel.js";
import { readLink, whenLinkChanges, writeLink } from "./link.js";
import { activeAt, clearMap, drawMap, mapOf, samePlace } from "./maps.js";
import { announce, element, root } from "./shell.js";
import { Strip } from "./strip.js";

const page = byId("look");
const layers = byId("layers"), map = byId("map"), marker = byId("marker");
const fetched = remembering(48); // three addresses a cell

/** Where a picture and what was recorded of it are found. */
const fromJob = ({ id, result }, { prompt, seeds: [seed] }) => ({
  base: `api/jobs/${id}`, ending: "", picture: address(result.picture), prompt, seed,
  strongest: Object.fromEntries(result.cells.map(({ cell, strongest }) => [cell, strongest])),
});
const fromStudy = ({ imageId, prompt, seed }) => ({
  base: `look/pictures/${encodeURIComponent(imageId)}`, ending: ".json", picture: `${root}pictures/${encodeURIComponent(imageId)}.png`, prompt, seed, strongest: {},
});

let source = null, codes = null, names = {}; // the picture, the codes of the chosen cell, the names of its latents
let at = null, pinned = null; // the chosen position [row, column] and the chosen latent
let turn = 0; // counts the choices of a cell: an answer that comes late is dropped

// ---- The picture, and the map over it.

const nameOf = latent => names[latent] ? `${latent} ${names[latent]}` : `${latent}`;

const showLatent = latent => {
  const values = mapOf(codes, latent), active = values.filter(value => value > 0).length;
  drawMap(map, values, codes.grid);
  byId("mapped").textContent = `Map of latent ${nameOf(latent)}: active at ${active} of ${values.length} positions, at most ${short(Math.max(...values))}.`;
};

const showPinned = () => {
  if (codes && pinned !== null) return showLatent(pinned);
  clearMap(map);
  byId("mapped").textContent = "Move over a latent or a noun to see its map.";
};

/** Show a map while the pointer or the focus is on an element, and keep it after a click. */
const mapping = (element, show, keep) => {
  element.onmouseenter = element.onfocus = show;
  element.onmouseleave = element.onblur = showPinned;
  element.onclick = keep;
  return element;
};

const pin = latent => {
  pinned = pinned === latent ? null : latent;
  for (const row of byId("active").querySelectorAll("button[data-latent]"))
    row.setAttribute("aria-pressed", String(Number(row.dataset.latent) === pinned));
  showPinned();
  remember();
};

// ---- The position: what is active there.

const choosePosition = ([row, column], { tell = true } = {}) => {
  const [height, width] = codes.grid;
  at = [Math.min(Math.max(row, 0), height - 1), Math.min(Math.max(column, 0), width - 1)];
  Object.assign(marker.style, {
    left: `${100 * at[1] / width}%`, top: `${100 * at[0] / height}%`, width: `${100 / width}%`, height: `${100 / height}%`,
  });
  marker.hidden = false;
  listActive(tell);
  remember();
};

const listActive = tell => {
  const active = activeAt(codes, at[0] * codes.grid[1] + at[1]), most = active[0]?.[1] ?? 1;
  byId("where").textContent = `Row ${at[0] + 1}, column ${at[1] + 1}: ${active.length} active latents`;
  byId("active").replaceChildren(...active.map(([latent, value]) => activeRow(latent, value, most)));
  if (!tell) return;
  const first = active.slice(0, 3).map(([latent, value]) => `${nameOf(latent)}, ${short(value)}`).join("; ");
  announce(`${byId("where").textContent}. ${first}`);
};

const activeRow = (latent, value, most) => {
  const bar = element("span", { class: "filled" });
  bar.style.width = `${100 * value / most}%`;
  const shown = element("button", { type: "button", class: "latent", "data-latent": latent, "aria-pressed": String(latent === pinned) },
    element("b", {}, String(latent)), element("span", { class: "label" }, names[latent] ?? "no label"),
    element("span", { class: "value" }, short(value)), element("span", { class: "bars" }, bar));
  mapping(shown, () => showLatent(latent), () => pin(latent));
  const edit = new URLSearchParams({ prompt: source.prompt, seed: source.seed, cell: strip.cell, latents: latent });
  return element("li", {}, shown,
    element("a", { href: `${root}latents/${strip.cell}/${latent}/`, "aria-label": `page of latent ${latent}` }, "page"),
    element("a", { href: `${root}steer/#${edit}`, "aria-label": `steer with latent ${latent}` }, "steer"));
};

layers.onclick = event => {
  if (!codes) return;
  const box = layers.getBoundingClientRect(), [height, width] = codes.grid;
  choosePosition([Math.floor((event.clientY - box.top) / box.height * height), Math.floor((event.clientX - box.left) / box.width * width)]);
};

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
layers.onkeydown = event => {
  const move = MOVES[event.key];
  if (!move || !codes) return;
  event.preventDefault();
  choosePosition(at ? [at[0] + move[0], at[1] + move[1]] : [0, 0]);
};

// ---- The cell: its codes, and the composition that they predict.

const showCell = async () => {
  if (!source) return;
  const mine = ++turn, cell = strip.cell;
  page.classList.add("loading");
  remember();
  try {
    const [next, labels] = await Promise.all([
      fetched(`${source.base}/cells/${cell}${source.ending}`), fetched(`look/labels/${cell}.json`)]);
    if (mine !== turn) return;
    const place = at && (codes ? samePlace(at, codes.grid, next.grid) : at);
    codes = next;
    names = { ...Object.fromEntries(Object.entries(labels.labels).map(([latent, words]) => [latent, words.join(", ")])), ...labels.names };
    byId("where").textContent = "Choose a position of the picture.";
    showPinned();
    if (place) choosePosition(place, { tell: false });
    await showComposition(cell, mine);
    problem("");
  } catch (fault) {
    if (mine === turn) problem(fault.message);
  } finally {
    if (mine === turn) page.classList.remove("loading");
  }
};

const showComposition = async (cell, mine) => {
  let nouns = {}, note = `${cell} is not labelled, so it predicts nothing. Choose another cell, or run diffusae label for this one.`;
  try {
    if (strip.labelled) {
      ({ nouns, note } = await fetched(`${source.base}/composition/${cell}.json`));
      note = `Where the labelled latents of ${cell} expect every noun, from its lowest score (dark) to its highest. ${note ?? ""}`;
    }
  } catch (fault) {
    note = fault.message; // such as of a study without word embedding; everything else can be seen
  }
  if (mine !== turn) return;
  byId("composition-note").textContent = note;
  byId("composition").replaceChildren(...Object.entries(nouns).map(([noun, scores]) => nounButton(noun, scores.flat(), codes.grid)));
};

const nounButton = (noun, scores, grid) => {
  const drawn = element("canvas", { "aria-hidden": "true" }), least = Math.min(...scores), most = short(Math.max(...scores));
  const even = Math.max(...scores) === least ? ", the same everywhere" : "";
  drawMap(drawn, scores, grid, least);
  const show = () => {
    drawMap(map, scores, grid, least);
    byId("mapped").textContent = `Predicted place of ${noun}; its highest score is ${most}${even}.`;
  };
  const shown = element("button", { type: "button", class: "noun", "aria-label": `${noun}, ${most}: show its predicted place` },
    element("span", { class: "over" }, picture(source.picture, ""), drawn), element("span", {}, `${noun} ${most}`));
  return mapping(shown, show, show);
};

// ---- The picture, and the link that gives all of it back.

const showPicture = (url, text) => {
  Object.assign(byId("picture"), { src: url, alt: text, hidden: false });
  byId("shown").textContent = text;
};

const showSource = next => {
  [source, codes] = [next, null];
  showPicture(source.picture, `${source.prompt}, seed ${source.seed}`);
  strip.name(source.strongest);
  return showCell();
};

const collected = page.dataset.imageId ? page.dataset : null;

const remember = () => writeLink({
  ...(collected ? {} : { prompt: source?.prompt, seed: source?.seed }),
  cell: strip.cell, at: at?.join(","), latent: pinned,
});

const strip = new Strip(byId("strip"), showCell);

const generate = async () => {
  const order = { kind: "look", prompt: byId("prompt").value, seeds: [Number(byId("seed").value)], edits: [], preview_every: 3 };
  const done = await panel.run(order, { preview: ({ pictures }) => showPicture(address(pictures[0].url), "on the way") });
  if (done) await showSource(fromJob(done, order));
};

const panel = byId("generate")?.disabled === false ? new JobPanel() : null; // null: no model, or a collected picture
if (panel) byId("ask").onsubmit = event => {
  event.preventDefault();
  generate();
};

const restore = () => {
  const link = readLink(), place = (link.at ?? "").split(",").map(Number);
  strip.cell = link.cell ?? strip.cell;
  at = place.length === 2 && place.every(Number.isInteger) ? place : null;
  pinned = /^\d+$/.test(link.latent ?? "") ? Number(link.latent) : null;
  if (collected) return showSource(fromStudy(collected));
  if (!link.prompt) return null;
  byId("prompt").value = link.prompt;
  byId("seed").value = /^\d+$/.test(link.seed ?? "") ? link.seed : "0";
  return panel ? generate() : null;
};
whenLinkChanges(restore);
restore();
