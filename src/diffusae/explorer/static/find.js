// The search of an exported study, in the browser. It means the same as explorer/searching.py: a test compares the two.
// The list of cells and labels is find/data.json; the latents of a cell are loaded when a search needs them.
import { announce, element, root } from "./shell.js";

const CONDITION = /^([a-z]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?(?:e-?\d+)?)$/;
const NUMBER = /^[0-9]{1,9}$/;
const COMPARED = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
const FIELDS = ["q", "cell", "block", "t", "branch", "tag", "label", "dead", "sort", "page"];

/** The words of a text as they are compared: `normal_words` of concepts/words.py. */
export const normalWords = text =>
  text.normalize("NFKC").toLowerCase().replaceAll("’", "'").replace(/'s(?![\p{L}\p{N}_])/gu, "").match(/[\p{L}\p{N}]+/gu) ?? [];

/** What is asked, from the parameters of an address. */
export function queryOf(parameters) {
  const query = Object.fromEntries(FIELDS.map(name => [name, (parameters.get(name) ?? "").trim()]));
  const parts = query.q.split(/\s+/).filter(Boolean);
  const conditions = parts.map(part => part.toLowerCase().match(CONDITION)).filter(Boolean);
  return {
    ...query,
    page: Math.max(1, Number(query.page) || 1),
    conditions: conditions.map(([, statistic, sign, value]) => ({ statistic, sign, value: Number(value) })),
    numbers: parts.filter(part => NUMBER.test(part)).map(Number),
    words: parts.filter(part => !NUMBER.test(part) && !CONDITION.test(part.toLowerCase())).join(" "),
  };
}

/** The labels that words mean: a label or its plural, else those that have these words in them. */
export function meant(index, text) {
  let words = normalWords(text);
  const wanted = new Set(words);
  while (words.length) {
    const label = index.forms[words.join(" ")];
    if (label !== undefined) return [label];
    if (!index.before.includes(words[0]) && !/^\p{Nd}+$/u.test(words[0])) break;
    words = words.slice(1);
  }
  return index.labels.filter(label => {
    const has = new Set(normalWords(label));
    return wanted.size && [...wanted].every(word => has.has(word));
  });
}

/** The cells that a query asks for. */
export const cellsOf = (index, query) =>
  index.cells.filter(cell => ["block", "t", "branch", "tag"].every(name => !query[name] || query[name] === cell[name])
    && (!query.cell || query.cell === cell.name));

/** The rows that a query asks for, in order. `latents`: name of a cell -> its latents.json. */
export function find(index, latents, query) {
  const places = labels => new Set(labels.map(label => index.labels.indexOf(label)));
  const asked = [query.words && places(meant(index, query.words)), query.label && places([query.label])].filter(Boolean);
  const order = new Map(index.cells.map((cell, place) => [cell.name, place]));
  const rows = cellsOf(index, query).flatMap(cell => {
    const data = latents[cell.name];
    const all = asked.length ? asked.map(wanted => entriesOf(data, wanted)) : [entriesOf(data, null)];
    // The label that is asked for is the one that is shown; without one, that which the words mean.
    return all.at(-1).flatMap((entry, latent) => asked.length && all.some(entries => entries[latent] < 0) ? []
      : [{ cell, place: order.get(cell.name), latent, ...valuesOf(index, data, latent, entry) }]);
  });
  const kept = rows.filter(row =>
    (!query.numbers.length || query.numbers.includes(row.latent))
    && (!query.dead || (row.values.frequency !== null && (row.values.frequency === 0) === (query.dead === "yes")))
    && query.conditions.every(({ statistic, sign, value }) =>
      row.values[statistic] != null && COMPARED[sign](row.values[statistic], value)));
  return kept.sort(inOrder(query.sort));
}

/** The entry of every latent whose label is wanted; they stand by falling count, so the first one is its best. */
function entriesOf(data, wanted) {
  const entries = new Array(data.size).fill(-1);
  data.rows.forEach((row, entry) => {
    if (entries[row] < 0 && (!wanted || wanted.has(data.labels[entry]))) entries[row] = entry;
  });
  return entries;
}

function valuesOf(index, data, latent, entry) {
  const values = Object.fromEntries(index.statistics.map(name => {
    if (!index.of_label.includes(name)) return [name, data.statistics[name][latent]];
    return [name, entry < 0 ? null : data[name][entry]];
  }));
  return { values, label: entry < 0 ? null : data.labels[entry], telling: entry < 0 ? 0 : data.count[entry] * data.share[entry] };
}

function inOrder(sort) {
  const name = sort.replace(/^-/, ""), sign = sort.startsWith("-") ? -1 : 1;
  const usual = (a, b) => a.place - b.place || a.latent - b.latent;
  if (!name || name === "similarity") return (a, b) => b.telling - a.telling || usual(a, b);
  if (name === "cell") return (a, b) => sign * (a.place - b.place) || a.latent - b.latent;
  const key = name === "latent" ? row => row.latent : name === "label" ? row => row.label : row => row.values[name];
  return (a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one == null || other == null) return (one == null) - (other == null) || usual(a, b);
    return sign * (one - other) || usual(a, b);
  };
}

/** A statistic as text, as find_page.py writes it. */
export function textOf(index, name, value) {
  if (value == null) return "–";
  if (name === "count") return String(value);
  if (!index.percents.includes(name)) return value.toFixed(Math.abs(value) < 10 ? 3 : 1);
  return `${value > 0 && value < 0.1 ? Number((100 * value).toPrecision(2)) : (100 * value).toFixed(0)} %`;
}

const load = async path => {
  const answer = await fetch(root + path);
  if (!answer.ok) throw new Error(`${path} could not be loaded (status ${answer.status}). Is the export whole?`);
  return answer.json();
};
let index;
const latents = {};
let pages; // name of a cell -> its latents that have a page here

async function answer(query) {
  index ??= await load("find/data.json");
  pages ??= await load("latents/pages.json");
  const unknown = query.conditions.filter(({ statistic }) => !index.statistics.includes(statistic));
  if (unknown.length) throw new Error(`unknown statistic ${unknown[0].statistic}; known: ${index.statistics.join(", ")}`);
  const missing = cellsOf(index, query).filter(cell => !latents[cell.name]);
  await Promise.all(missing.map(async cell => {
    latents[cell.name] = await load(`cells/${encodeURIComponent(cell.name)}/latents.json`);
  }));
  return find(index, latents, query);
}

const form = document.querySelector("form.find");
const place = document.getElementById("answer");

function shown(row) {
  const there = pages[row.cell.name]?.includes(row.latent);
  const address = there ? `${root}latents/${encodeURIComponent(row.cell.name)}/${row.latent}/` : `${root}left-out/`;
  const state = row.values.frequency === 0 ? "dead" : row.cell.missing ? "not labelled" : "no label";
  const label = row.label === null ? element("span", { class: "muted" }, state) : element("b", {}, index.labels[row.label]);
  return element("tr", {}, element("td", {}, row.cell.name),
    element("th", { scope: "row" }, element("a", { href: address, title: `latent ${row.latent} of ${row.cell.name}` }, row.latent)),
    element("td", {}, label),
    ...index.statistics.map(name => element("td", { class: "num" }, textOf(index, name, row.values[name]))));
}

/** The address of this page with other parameters; the page of the answer begins anew. */
function changed(query, changes) {
  const values = { ...query, page: 1, ...changes };
  const kept = FIELDS.filter(name => values[name] && !(name === "page" && values.page === 1));
  return `?${new URLSearchParams(kept.map(name => [name, values[name]]))}`;
}

function show(query, rows) {
  const pages = Math.max(1, Math.ceil(rows.length / index.page)), page = Math.min(query.page, pages);
  const table = heading.cloneNode(true);
  for (const link of table.querySelectorAll("thead a")) {
    const name = link.dataset.sort, rising = ["cell", "latent", "label"].includes(name);
    const sorted = query.sort === name ? "ascending" : query.sort === `-${name}` ? "descending" : null;
    link.href = changed(query, { sort: sorted === "descending" || (rising && !sorted) ? name : `-${name}` });
    if (sorted) link.parentElement.setAttribute("aria-sort", sorted);
    else link.parentElement.removeAttribute("aria-sort");
  }
  table.querySelector("tbody").replaceChildren(...rows.slice((page - 1) * index.page, page * index.page).map(shown));
  const count = `${rows.length} ${rows.length === 1 ? "latent" : "latents"}${pages > 1 ? `, page ${page} of ${pages}` : ""}.`;
  const parts = [element("p", { class: "answer" }, count)];
  if (rows.length) parts.push(table);
  else parts.push(element("p", { class: "nodata" }, query.words
    ? "No label has these words. This page has no word embedding, so it cannot answer with the nearest labels; diffusae explore can."
    : "No latent is as asked. Use another word, or choose “all” in some filters."));
  const turn = (rel, text, to) => element("a", { class: "button", rel, href: changed(query, { page: to }) }, text);
  const turns = [page > 1 && turn("prev", "Previous page", page - 1), page < pages && turn("next", "Next page", page + 1)].filter(Boolean);
  if (turns.length) parts.push(element("nav", { class: "pages", "aria-label": "Pages of the answer" }, ...turns));
  place.replaceChildren(...parts);
  announce(count);
}

const heading = place?.querySelector(".scroll");

async function ask() {
  const query = queryOf(new URLSearchParams(location.search));
  for (const field of form.elements) {
    if (field.name in query) field.value = query[field.name];
  }
  if (query.sort && !form.elements.sort) form.append(element("input", { type: "hidden", name: "sort", value: query.sort }));
  place.setAttribute("aria-busy", "true");
  try {
    show(query, await answer(query));
  } catch (error) {
    place.replaceChildren(element("p", { class: "message" }, error.message));
  }
  place.removeAttribute("aria-busy");
}

// The page itself has the first latents of all: nothing is loaded until something is asked.
if (form && heading && location.search.length > 1) ask();
