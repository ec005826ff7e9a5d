// Saves bookmarks, names and notes of latents as they are changed; see templates/notes.html.j2.
import { ask } from "./shell.js";

for (const section of document.querySelectorAll("section.notes")) {
  const { cell, latent } = section.dataset;
  const said = section.querySelector(".said");
  const inputs = [...section.querySelectorAll("input, textarea")];
  const bookmark = section.querySelector("button[name=bookmarked]");
  const isSet = () => bookmark.getAttribute("aria-pressed") === "true";
  const saved = { bookmarked: isSet(), ...Object.fromEntries(inputs.map(input => [input.name, input.value])) };
  let saving = Promise.resolve();

  const show = (field, value) => {
    if (field === "bookmarked") bookmark.setAttribute("aria-pressed", String(value));
    else section.querySelector(`[name=${field}]`).value = value;
  };
  // One change after the other: each says the value that it was made from.
  const save = (field, value) => {
    saving = saving.then(async () => {
      if (saved[field] === value) return;
      said.textContent = "Saving…";
      try {
        const told = await ask("notes/", { method: "PUT", body: { cell, latent: Number(latent), field, value, was: saved[field] } });
        saved[field] = told.note[field];
        said.textContent = `Saved in ${told.file}`;
      } catch (error) {
        said.textContent = `Not saved: ${error.message}`;
        if (error.told?.note) {
          saved[field] = error.told.note[field];
          said.textContent += `. It is now: ${saved[field] || "empty"}. Save again to replace it.`;
        } else if (field === "bookmarked") show(field, saved[field]);
      }
    });
    return saving;
  };

  bookmark.addEventListener("click", () => { show("bookmarked", !isSet()); save("bookmarked", isSet()); });
  for (const input of inputs) {
    input.addEventListener("change", () => save(input.name, input.value));
  }
  // A text that is still in work when the page is left is kept.
  addEventListener("pagehide", () => inputs.forEach(input => save(input.name, input.value)));
}
