// The part of a page that asks for a generation: its button, its progress, and Cancel.
import { byId } from "./elements.js";
import { startJob } from "./jobs.js";
import { announce } from "./shell.js";

/** Follows one job at a time. */
export class JobPanel {
  #job = null;

  constructor() {
    byId("cancel").onclick = () => this.#job?.cancel();
  }

  /**
   * Run a job and show how it goes.
   *
   * @param {object} order - see `startJob`.
   * @param {object} hear - functions for the events `preview`, {step, pictures: [{seed, url}]}, and
   *   `picture`, {seed, picture, url}: a finished one, "before", "after" or "random".
   * @returns {Promise<{id: string, result: object} | null>} null: cancelled or failed, which the page says.
   */
  async run(order, hear) {
    this.#working(true);
    this.#tell("Waiting for the model …");
    announce("The generation begins.");
    this.#job = startJob(order, {
      queued: ({ place }) => { if (place) this.#tell(`Waiting: ${place} before this one.`); },
      step: event => this.#step(event),
      ...hear,
    });
    try {
      const done = await this.#job.finished;
      this.#end(done ? "Done." : "Cancelled. Press Generate to start again.");
      return done;
    } catch (fault) {
      this.#end(fault.message, true);
      return null;
    } finally {
      this.#job = null;
      this.#working(false);
    }
  }

  #step({ step, steps, seconds_left: left }) {
    Object.assign(byId("progress"), { max: steps, value: step });
    this.#tell(`Step ${step} of ${steps}${left == null ? "" : `, about ${Math.ceil(left)} s left`}`);
  }

  #tell(text, bad = false) {
    byId("job-status").textContent = text;
    byId("job-status").classList.toggle("bad", bad);
  }

  #end(text, bad) {
    this.#tell(text, bad);
    announce(text);
  }

  #working(yes) {
    byId("generate").disabled = yes;
    byId("cancel").disabled = !yes;
    byId("progress").classList.toggle("resting", !yes);
    byId("progress").value = 0;
  }
}
