// The page of a latent: its picture in an empty prompt, made by the explorer when it is asked for.
import { announce, ask, element, root } from "./shell.js";

const STRENGTH = 3;
const place = document.getElementById("icon");
const button = place.querySelector("button");
const said = place.querySelector(".said");
const { cell, latent } = place.dataset;

function say(text) {
  said.textContent = text;
  announce(text);
}

async function make() {
  button.disabled = true;
  say("Waiting for the model …");
  try {
    const edits = [{ cell, latents: [Number(latent)], intervention: "global", strength: STRENGTH }];
    const job = await ask("api/jobs", { method: "POST", body: { kind: "steer", prompt: "", seeds: [0], edits, preview_every: 0 } });
    const events = new EventSource(`${root}api/jobs/${job.id}/events`);
    events.addEventListener("step", event => {
      const { step, steps } = JSON.parse(event.data);
      said.textContent = `Step ${step} of ${steps}`;
    });
    events.addEventListener("done", async () => { events.close(); await show(job.id); });
    for (const end of ["failed", "cancelled"]) events.addEventListener(end, event => {
      events.close();
      button.disabled = false;
      say(JSON.parse(event.data || "{}").message ?? "It was cancelled.");
    });
  } catch (error) {
    button.disabled = false;
    say(error.message);
  }
}

async function show(id) {
  const { result } = await ask(`api/jobs/${id}`);
  const [picture] = result.pictures;
  const figures = [[picture.before, "empty prompt"], [picture.after, `with latent ${latent}, strength ${STRENGTH}`]];
  place.querySelector(".made").replaceChildren(...figures.map(([url, caption]) =>
    element("figure", {}, element("img", { src: root + url, alt: caption }), element("figcaption", {}, caption))));
  button.disabled = false;
  button.textContent = "Make it again";
  say("");
}

button.hidden = false;
said.textContent = "";
button.addEventListener("click", make);
