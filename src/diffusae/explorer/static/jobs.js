// A generation on the server: asked for by POST, followed by server-sent events, cancelled by DELETE.
import { ask, root } from "./shell.js";

const LOST = "The connection to the explorer was lost, and with it this generation. Press Generate to try again.";

/**
 * Start a job.
 *
 * @param {object} order - what is asked for: kind, prompt, seeds, edits, preview_every.
 * @param {object} hear - functions for the events `queued`, `step`, `preview` and `picture`. They get the event's data.
 * @returns {{finished: Promise<{id: string, result: object} | null>, cancel: function}} `finished`
 *   gives null for a job that was cancelled, and rejects with the message of one that failed.
 */
export const startJob = (order, hear = {}) => {
  let id = null, cancelled = false, stream = null;
  const cancel = () => {
    cancelled = true;
    if (id) ask(`api/jobs/${id}`, { method: "DELETE" }).catch(() => {}); // a job that just ended cannot be cancelled
  };
  const follow = () => new Promise((resolve, reject) => {
    stream = new EventSource(`${root}api/jobs/${id}/events`); // the server stops the job when this closes
    for (const kind of ["queued", "step", "preview", "picture"])
      stream.addEventListener(kind, event => hear[kind]?.(JSON.parse(event.data)));
    stream.addEventListener("done", () => resolve(true));
    stream.addEventListener("cancelled", () => resolve(false));
    stream.addEventListener("failed", event => reject(new Error(JSON.parse(event.data).message)));
    stream.onerror = () => (cancelled ? resolve(false) : reject(new Error(LOST)));
  });
  const work = async () => {
    ({ id } = await ask("api/jobs", { method: "POST", body: order }));
    if (cancelled) {
      cancel();
      return null;
    }
    try {
      if (!(await follow())) return null;
    } finally {
      stream.close();
    }
    return { id, result: (await ask(`api/jobs/${id}`)).result };
  };
  return { finished: work(), cancel };
};
