"use strict";
(() => {
  const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const button = (text, act) => Object.assign(make("button", text), { type: "button", onclick: act });

  // Charts, in the page's own colours. A chart of several panels wraps to the width of the page.
  const colour = name => `var(--${name})`;
  const axis = { labelColor: colour("muted"), titleColor: colour("muted"), gridColor: colour("line"),
    domainColor: colour("muted"), tickColor: colour("muted"), titleFontWeight: "normal" };
  const words = { labelColor: colour("ink"), titleColor: colour("ink") };
  const config = { background: null, axis, legend: { ...words, symbolOpacity: 1 }, header: words, title: { color: colour("ink") },
    view: { stroke: colour("line") }, rule: { color: "#8a939c" }, font: "inherit" };
  // Vega evaluates no text as code and adds no style element, so that a strict policy lets it work.
  const strict = { ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  const specs = JSON.parse(document.getElementById("charts")?.textContent || "[]");
  // A chart's place is kept free before it is drawn, so that the page does not move.
  const kinds = (spec, { field }) => new Set(Object.values(spec.datasets).flat().map(row => row[field])).size;
  const high = ({ height }) => typeof height === "number" ? height : 6 * (height?.step ?? 33);
  const room = spec => {
    if (spec.vconcat) return spec.vconcat.reduce((sum, part) => sum + high(part) + 60, 0);
    if (!spec.facet) return high(spec) + 50;
    const { row } = spec.facet, rows = row ? kinds(spec, row) : Math.ceil(kinds(spec, spec.facet) / (spec.columns || 1));
    return rows * (high(spec.spec) + 55) + 20;
  };
  const charts = [...document.querySelectorAll("div.chart")];
  const fit = element => {
    const spec = specs[element.id.slice("chart-".length)], width = element.parentElement.clientWidth;
    if (spec.columns && width) spec.columns = Math.max(1, Math.min(spec.columns, Math.floor(width / 320)));
    for (const part of spec.vconcat || []) part.width = Math.min(part.width, Math.max(160, width - 110));
    element.style.minHeight = `${room(spec)}px`;
    return spec;
  };
  const fitted = charts.map(fit);
  const draw = async (element, spec) => vegaEmbed(element, spec, { config, actions: false, renderer: "svg", ...strict });
  (async () => { for (const [place, element] of charts.entries()) await draw(element, fitted[place]); })();

  // Tables: a click on a heading sorts, the field above keeps the rows that hold what is typed.
  const key = cell => {
    const text = (cell?.textContent ?? "").trim(), number = parseFloat(text);
    return /^(no data|–)/.test(text) ? [2, ""] : Number.isNaN(number) ? [1, text] : [0, number];
  };
  const order = ([a, x], [b, y]) => a - b || (a ? x.localeCompare(y) : x - y);
  document.querySelectorAll("table.sortable").forEach(table => {
    const body = table.tBodies[0], rows = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      let sign = -1;
      heading.tabIndex = 0;
      heading.onclick = () => {
        sign = -sign;
        [...table.tHead.rows[0].cells].forEach(cell => cell.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        body.append(...rows.sort((a, b) => sign * order(key(a.cells[column]), key(b.cells[column]))));
      };
      heading.onkeydown = event => { if (event.key === "Enter") heading.click(); };
    });
    if (rows.length < 6) return;
    const field = Object.assign(make("input"), { type: "search", placeholder: "filter rows" });
    field.setAttribute("aria-label", "filter rows");
    field.oninput = () => rows.forEach(row => {
      row.hidden = !row.textContent.toLowerCase().includes(field.value.toLowerCase());
    });
    table.parentElement.before(field);
  });

  // Commands are copied; a link to a latent unfolds what holds it; all folds open at once.
  document.querySelectorAll("button.copy").forEach(copy => {
    copy.onclick = async () => {
      await navigator.clipboard.writeText(copy.previousElementSibling.textContent);
      copy.textContent = "Copied";
    };
  });
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = target?.closest?.("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();
  const folds = [...document.querySelectorAll("details")];
  const all = button("Unfold all", () => {
    const opened = all.textContent === "Unfold all";
    folds.forEach(fold => { fold.open = opened; });
    all.textContent = opened ? "Fold all" : "Unfold all";
  });
  if (folds.length) document.querySelector("nav.sections")?.append(all);
})();
