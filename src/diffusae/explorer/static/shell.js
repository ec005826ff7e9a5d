// What every page has: copy buttons, messages for screen readers, and requests whose errors are said in words.

/** The way from this page to the start page, such as "../../". */
export const root = document.querySelector('link[rel="icon"]').getAttribute("href").replace("static/icon.svg", "");

/** Say something to whoever cannot see the page change. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** An element with attributes and children; text is never read as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** The JSON in the page's element #name; see `data_element` in pages.py. */
export function pageData(name) {
  return JSON.parse(document.getElementById(name)?.textContent ?? "null");
}

/** Ask the server for JSON. An error's message is the server's own, and says what to do. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  let answer;
  try {
    answer = await fetch(root + path, {
      method, signal, keepalive: method !== "GET",
      headers: { accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The explorer does not answer. Is `diffusae explore` still running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(told.error ?? `The explorer answered ${answer.status}.`), { status: answer.status, told });
  return told;
}

for (const button of document.querySelectorAll("button.copy")) {
  const code = button.parentElement.querySelector("code");
  button.hidden = !navigator.clipboard || !code;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    announce("Copied");
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
