// The runs of this tab: started, followed, stopped, kept as a history, and found again after a reload.

import { announce } from "./dom.js";
import { api, follow, isUnderWay } from "./api.js";
import { createStore, recall, remember } from "./store.js";
import { t } from "./words.js";
import { unknownNote } from "./unknown.js";

/**
 * jobs: newest first. shown: id of the run whose pictures are seen. picture, layer: which of them. notice: a sentence
 * above the picture, {kind: "error" | "note", text}, or null. field: {name, text} of a refused value, or null.
 */
export function createRuns() {
  const client = recall("client") ?? newClient();
  remember("client", client);
  const store = createStore({
    jobs: [],
    shown: recall("shown") ?? "",
    picture: 0,
    layer: "",
    single: false,
    trimmed: false,
    notice: null,
    field: null,
    sending: false,
  });
  store.watch((_, state) => remember("shown", state.shown), "shown");
  return new Runs(client, store);
}

function newClient() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

class Runs {
  constructor(client, store) {
    this.client = client;
    this.store = store;
  }

  /** The history that the server keeps of this tab; runs under way are followed again. */
  async find() {
    const jobs = await api.jobs(this.client);
    this.store.set({ jobs });
    for (const job of jobs.filter(isUnderWay)) this.#follow(job.id);
    const last = jobs.find((job) => job.id === this.store.get().shown && job.state === "done");
    this.show((last ?? jobs.find((job) => job.state === "done"))?.id ?? "");
  }

  underWay() {
    return this.store.get().jobs.filter(isUnderWay);
  }

  shown() {
    const { jobs, shown } = this.store.get();
    return jobs.find((job) => job.id === shown) ?? null;
  }

  /** The picture that is looked at: {job, picture, layer}, or null. */
  chosen() {
    const job = this.shown();
    const picture = job?.pictures?.[this.store.get().picture] ?? job?.pictures?.[0];
    if (!picture) return null;
    const named = picture.layers.find((row) => row.layer === this.store.get().layer);
    return { job, picture, layer: named ?? mainLayer(picture) };
  }

  show(id) {
    const job = this.store.get().jobs.find((one) => one.id === id);
    const single = (job?.pictures?.length ?? 0) < 2;
    this.store.set({ shown: id, picture: 0, layer: "", single, trimmed: false });
  }

  async start(route, body) {
    this.store.set({ notice: null, field: null, sending: true });
    try {
      const job = await api[route](body);
      this.#put(job);
      if (isUnderWay(job)) this.#follow(job.id);
      else this.#ended(job);
    } catch (error) {
      this.refuse(error);
    } finally {
      this.store.set({ sending: false });
    }
  }

  /** Say what was refused: a line above the picture, and beside the field where one is to blame. */
  refuse(error) {
    const text = t(error.message);
    this.store.set({ notice: { kind: "error", text }, field: error.field ? { name: error.field, text } : null });
    announce(text);
  }

  note(text) {
    this.store.set({ notice: { kind: "note", text } });
    announce(text);
  }

  async stop() {
    try {
      await api.stopAll(this.client);
    } catch (error) {
      this.refuse(error);
    }
  }

  async forget(id) {
    try {
      await api.forget(id);
    } catch (error) {
      if (error.status !== 404) return this.refuse(error);
    }
    this.#drop(id);
  }

  #drop(id) {
    const jobs = this.store.get().jobs.filter((job) => job.id !== id);
    const wasShown = this.store.get().shown === id;
    this.store.set({ jobs });
    if (wasShown) this.show(jobs.find((job) => job.state === "done")?.id ?? "");
  }

  #follow(id) {
    follow(
      id,
      (job) => {
        this.#put(job);
        if (!isUnderWay(job)) this.#ended(job);
      },
      () => this.#lost(id),
    );
  }

  /** The stream is gone for good: the job has ended meanwhile, or the server was started anew and knows it no more. */
  async #lost(id) {
    try {
      const job = await api.job(id);
      this.#put(job);
      if (isUnderWay(job)) setTimeout(() => this.#follow(id), 1000);
      else this.#ended(job);
    } catch (error) {
      if (error.status === 404) {
        this.#drop(id);
        this.refuse(new Error("The server does not know this run any more: generate it again."));
      } else setTimeout(() => this.#lost(id), 2000);
    }
  }

  #put(job) {
    const jobs = this.store.get().jobs;
    const known = jobs.some((one) => one.id === job.id);
    this.store.set({ jobs: known ? jobs.map((one) => (one.id === job.id ? job : one)) : [job, ...jobs] });
  }

  #ended(job) {
    if (job.state === "done") {
      this.show(job.id);
      // Words that the model does not know are said under the prompt already.
      const notes = job.notes.filter((note) => note !== unknownNote(job.unknown_words)).map((note) => t(note));
      this.store.set({ notice: notes.length ? { kind: "note", text: notes.join(" ") } : null });
      announce(t("The picture is finished."));
    } else if (job.state === "failed") {
      const error = new Error(job.error ?? "The run failed.");
      error.field = job.field ?? "";
      this.refuse(error);
    } else {
      this.note(t("Stopped."));
    }
  }
}

/** The layer that stands for a picture: the transparent one that was made, else the last that was. */
export function mainLayer(picture) {
  const made = picture.layers.filter((row) => !row.given);
  return made.find((row) => row.alpha) ?? made.find((row) => row.layer === "blended") ?? made[0] ?? picture.layers[0];
}
