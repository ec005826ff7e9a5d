// The list of edits as data: what it holds, how it goes to the server and into a link, undo and redo.

/** Interventions on a block, with the page's words for them and the range of their slider. */
export const INTERVENTIONS = {
  spatial: { words: "put it there", min: 0.5, max: 8, step: 0.5, start: 3 },
  global: { words: "push it everywhere", min: 0.5, max: 8, step: 0.5, start: 2 },
  ablate: { words: "take it away", min: 0.1, max: 1, step: 0.1, start: 1 },
  amplify: { words: "make it stronger where it is", min: 0.5, max: 8, step: 0.5, start: 1 },
  clamp: { words: "set it to one value where it is", min: 0, max: 20, step: 0.5, start: 5 },
};
/** The slider of lambda for a concept of the text encoder: below 0 away from it, above 0 towards it. */
export const LAMBDA = { min: -2, max: 2, step: 0.1, start: 1 };
export const REGIONS = ["top_left", "top_right", "bottom_left", "bottom_right", "top", "bottom", "left", "right", "whole"];

export const isText = edit => edit.layer !== undefined;
export const rangeOf = edit => (isText(edit) ? LAMBDA : INTERVENTIONS[edit.intervention]);
export const isPainted = edit => typeof edit.region === "object";

/** Why an edit cannot be carried out yet; "" if it can. */
export const lacks = edit => {
  if (isPainted(edit) && !edit.region.rows.some(row => row.includes("1")))
    return "Nothing is painted yet, so this edit is left out. Paint on the picture, or choose a named place.";
  if (isText(edit) && edit.strength === 0) return "A lambda of 0 changes nothing, so this edit is left out.";
  return "";
};

/** An edit with another intervention, and what that one needs: an empty place to paint on, or none. */
export const withIntervention = (edit, intervention, nothingPainted) => {
  const { region, source, outside, ...others } = edit;
  const place = { spatial: { region: region ?? nothingPainted, source, outside }, global: {} }[intervention] ?? { region };
  return { ...others, ...place, intervention, strength: INTERVENTIONS[intervention].start };
};

/** A new edit. `what` has concept or latents, and either cell and window, or layer. */
export const newEdit = (what, intervention, nothingPainted) => (isText(what)
  ? { enabled: true, ...what, strength: LAMBDA.start }
  : withIntervention({ enabled: true, ...what }, intervention, nothingPainted));

/** The edits as the server takes them: those that are on and lack nothing. */
export const toSend = edits => edits.filter(edit => edit.enabled && !lacks(edit)).map(({ enabled, ...edit }) => edit);

const isWord = value => typeof value === "string" && value !== "";
const isNumber = value => typeof value === "number" && Number.isFinite(value);
const isPlace = value => REGIONS.includes(value) || (Array.isArray(value?.rows) && value.rows.length > 0 && value.rows.length === value.height
  && value.rows.every(row => typeof row === "string" && row.length === value.width && /^[01]+$/.test(row)));
const CHECKS = {
  enabled: value => typeof value === "boolean",
  cell: isWord,
  layer: isWord,
  concept: isWord,
  latents: value => Array.isArray(value) && value.length > 0 && value.every(Number.isInteger),
  intervention: value => Object.hasOwn(INTERVENTIONS, value),
  strength: isNumber,
  region: isPlace,
  source: isPlace,
  outside: value => ["subtract", "subtract_once", "keep"].includes(value),
  window: value => Array.isArray(value) && value.length === 2 && value.every(isNumber),
};

const readEdit = given => {
  const wrong = Object.entries(given).find(([name, value]) => !CHECKS[name]?.(value));
  if (wrong) throw new Error(`${wrong[0]} is not what an edit can have`);
  if (!given.concept === !given.latents) throw new Error("an edit needs either a concept or latents");
  if (!given.layer && !(given.cell && given.intervention)) throw new Error("an edit needs a cell and an intervention, or a layer");
  if (!("strength" in given)) throw new Error("an edit needs a strength");
  return { enabled: true, ...given };
};

/** The edits of a link's text. An `Error` says what is wrong with it. */
export const readEdits = text => {
  try {
    return JSON.parse(text).map(readEdit);
  } catch (fault) {
    throw new Error(`The edits of this link cannot be read (${fault.message}). Ask for the link again, or begin with no edits.`);
  }
};

/** States with undo and redo. A state is never changed: `set` takes a new one. */
export class History {
  #past = [];
  #future = [];
  #state;

  /** `changed` is called after every change. */
  constructor(state, changed) {
    this.#state = state;
    this.changed = changed;
  }

  get state() {
    return this.#state;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** Begin anew: nothing before can be undone. */
  begin(state) {
    this.#past = [];
    this.#future = [];
    this.#move(state);
  }

  set(state) {
    this.#past.push(this.#state);
    this.#future = [];
    this.#move(state);
  }

  undo() {
    if (!this.canUndo) return;
    this.#future.push(this.#state);
    this.#move(this.#past.pop());
  }

  redo() {
    if (!this.canRedo) return;
    this.#past.push(this.#state);
    this.#move(this.#future.pop());
  }

  #move(state) {
    this.#state = state;
    this.changed();
  }
}
