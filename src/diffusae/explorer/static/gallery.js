// The list of collected pictures: more of them, and those whose prompt holds a word.
import { byId, picture, problem } from "./elements.js";
import { ask, element, root } from "./shell.js";

const item = ({ image_id: id, prompt, seed }) => element("li", {}, element("a", { href: `${root}look/pictures/${encodeURIComponent(id)}/` },
  picture(`${root}thumbnails/${encodeURIComponent(id)}.webp`, "", { loading: "lazy", width: 96, height: 96 }),
  element("span", {}, seed === null ? prompt : `${prompt}, seed ${seed}`)));

const list = async (from, again) => {
  try {
    const { pictures, next } = await ask(`look/pictures.json?${new URLSearchParams({ q: byId("search").value, from })}`);
    if (again) byId("gallery").replaceChildren();
    byId("gallery").append(...pictures.map(item));
    byId("more").hidden = next === null;
    byId("more").dataset.next = next;
    byId("none").hidden = byId("gallery").children.length > 0;
  } catch (fault) {
    problem(fault.message);
  }
};

let waiting = null;
byId("search").oninput = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => list(0, true), 200);
};
byId("more").onclick = () => list(Number(byId("more").dataset.next), false);
