// The page of a latent: its picture in an empty prompt, made by the explorer when it is asked for.
import { announce, ask, element, root } from "./shell.js";

const place = document.getElementById("icon");
const button = place.querySelector("button");
const said = place.querySelector(".said");
const { cell, latent } = place.dataset;

function say(text) {
  said.textContent = text;
  announce(text);
}

function failed(message) {
  button.disabled = false;
  say(message);
}

async function make() {
  button.disabled = true;
  say("Waiting for the model …");
  try {
    const { id } = await ask(`latents/${encodeURIComponent(cell)}/${latent}/empty-prompt/`, { method: "POST", body: {} });
    const events = new EventSource(`${root}api/jobs/${id}/events`);
    events.addEventListener("step", event => {
      const { step, steps } = JSON.parse(event.data);
      said.textContent = `Step ${step} of ${steps}`;
    });
    events.addEventListener("done", () => { events.close(); show(id).catch(error => failed(error.message)); });
    for (const end of ["failed", "cancelled"]) events.addEventListener(end, event => {
      events.close();
      failed(JSON.parse(event.data || "{}").message ?? "It was cancelled.");
    });
    events.onerror = () => { events.close(); failed("The explorer does not answer. Make the picture again."); };
  } catch (error) {
    failed(error.message);
  }
}

async function show(id) {
  const { result } = await ask(`api/jobs/${id}`);
  const [picture] = result.pictures;
  const figures = [[picture.before, "empty prompt"], [picture.after, `with latent ${latent}`]];
  place.querySelector(".made").replaceChildren(...figures.map(([url, caption]) =>
    element("figure", {}, element("img", { src: root + url, alt: caption }), element("figcaption", {}, caption))));
  button.hidden = true;
  say("");
}

button?.addEventListener("click", make);
