// The page "steer": a list of edits, the pictures that they make, and the link that gives both back.
import { BrushBar } from "./brush_bar.js";
import { EditList } from "./edit_list.js";
import { History, newEdit, readEdits, toSend } from "./edits.js";
import { address, byId, problem } from "./elements.js";
import { JobPanel } from "./job_panel.js";
import { readLink, whenLinkChanges, writeLink } from "./link.js";
import { maskOf, toRows } from "./masks.js";
import { Picker } from "./picker.js";
import { seedPreview, seedResult } from "./before_after.js";
import { announce, pageData } from "./shell.js";

const choices = pageData("choices");
const nothing = toRows(maskOf(choices.grid));
const panel = byId("generate").disabled ? null : new JobPanel(); // null: there is no model

// ---- The edits: what the user does to one goes through the history, and from there to the page.

const history = new History([], () => {
  list.show(history.state);
  byId("undo").disabled = !history.canUndo;
  byId("redo").disabled = !history.canRedo;
  byId("no-edits").hidden = history.state.length > 0;
  remember();
});

const brush = new BrushBar(choices.grid, change => list.put(list.chosen, change));
const list = new EditList(byId("edits"), { nothing, changed: edits => history.set(edits), chose: edit => brush.show(edit) });
const picker = new Picker(choices, edit => {
  list.chosen = history.state.length;
  history.set([...history.state, newEdit(edit.what, edit.intervention, nothing)]);
  announce("The edit was added.");
});

byId("undo").onclick = () => history.undo();
byId("redo").onclick = () => history.redo();
addEventListener("keydown", event => {
  const typing = event.target.matches?.("input[type=text], input[type=search], input[type=number], textarea");
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || typing) return;
  event.preventDefault();
  if (event.shiftKey) history.redo();
  else history.undo();
});

// ---- The link: the whole state, without the pictures.

const seeds = () => Array.from({ length: Number(byId("count").value) }, (_, i) => Number(byId("seed").value) + i);

const remember = () => writeLink({
  prompt: byId("prompt").value, seed: byId("seed").value, count: byId("count").value === "1" ? null : byId("count").value,
  free: byId("locked").checked ? null : "1", edits: history.state.length ? JSON.stringify(history.state) : null,
});

const restore = link => {
  problem("");
  if (link.prompt) byId("prompt").value = link.prompt;
  if (/^\d+$/.test(link.seed ?? "")) byId("seed").value = link.seed;
  if ([...byId("count").options].some(option => option.value === link.count)) byId("count").value = link.count;
  byId("locked").checked = link.free !== "1";
  try {
    if (link.edits && link.edits !== JSON.stringify(history.state)) history.begin(readEdits(link.edits));
  } catch (fault) {
    problem(fault.message);
  }
  if (!link.edits && link.cell && (link.concept || link.latents)) picker.addFrom(link);
};

byId("copy-link").onclick = async () => {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copied").textContent = "Copied. The link holds the prompt, the seeds and all edits.";
  } catch { // no clipboard, such as over an address that is not this machine's
    byId("copied").textContent = "The browser does not let the page copy. Copy its address: it holds the prompt, the seeds and all edits.";
  }
};
for (const name of ["prompt", "seed", "count", "locked"]) byId(name).addEventListener("change", remember);

// ---- The pictures.

/** Where the seed is not kept, every generation has another one. */
const takeSeeds = () => {
  if (!byId("locked").checked) byId("seed").value = Math.floor(Math.random() * 1e6);
  remember();
  return seeds();
};

const generate = async () => {
  problem("");
  byId("made").hidden = true;
  const edits = toSend(history.state), order = { prompt: byId("prompt").value, seeds: takeSeeds(), preview_every: 3 };
  return edits.length ? generateEdited({ kind: "steer", ...order, edits }) : generateAlone({ kind: "look", ...order, seeds: order.seeds.slice(0, 1) });
};

/** Without an edit there is the picture alone, to paint on. */
const generateAlone = async order => {
  byId("results").replaceChildren();
  const done = await panel.run(order, { preview: ({ pictures }) => showStage(pictures[0].url, "on the way") });
  if (done) showStage(done.result.picture, `${order.prompt}, seed ${order.seeds[0]}`);
};

const generateEdited = async order => {
  const places = order.seeds.map(seedPreview), show = (seed, url) => places[order.seeds.indexOf(seed)]?.show(address(url));
  const alone = url => showStage(url, `${order.prompt}, seed ${order.seeds[0]}, without edits`);
  byId("results").replaceChildren(...places.map(place => place.item));
  const done = await panel.run(order, {
    preview: ({ pictures }) => pictures.forEach(({ seed, url }) => show(seed, url)),
    picture: ({ seed, picture, url }) => {
      if (picture !== "random") show(seed, url);
      if (picture === "before" && seed === order.seeds[0]) alone(url);
    },
  });
  if (!done) return;
  byId("results").replaceChildren(...done.result.pictures.map(seedResult));
  alone(done.result.pictures[0].before);
  keepYaml(done.result.yaml);
};

const showStage = (url, alt) => Object.assign(byId("picture"), { src: address(url), alt, hidden: false });

/** The download is the text that the server wrote for these very pictures. */
const keepYaml = text => {
  URL.revokeObjectURL(byId("download").href);
  byId("download").href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
  byId("made").hidden = false;
};

if (panel) byId("ask").onsubmit = event => {
  event.preventDefault();
  generate();
};
whenLinkChanges(() => restore(readLink()));
const asked = readLink(); // before the page writes its own state there
history.begin([]);
restore(asked);
