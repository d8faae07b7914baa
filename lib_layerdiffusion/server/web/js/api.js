// The server's routes. Nothing else on this page asks anybody for anything.

const BASE = "/layerdiffusion/v1/";

/** What the server refused. field: the name of the value to blame, where one is. */
export class Refused extends Error {
  constructor(detail, status, field = "") {
    super(detail);
    this.status = status;
    this.field = field;
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, options);
  } catch {
    throw new Refused("The server does not answer: start it again, this page waits.", 0);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  const detail = typeof said.detail === "string" ? said.detail : `The server answered ${answer.status}.`;
  throw new Refused(detail, answer.status, said.field ?? "");
}

const json = async (path) => (await ask(path)).json();

function post(path, body, headers = {}) {
  const options = { method: "POST", headers: { "Content-Type": "application/json", ...headers } };
  return ask(path, { ...options, body: JSON.stringify(body) });
}

const posted = async (path, body) => (await post(path, body)).json();

export const api = {
  model: () => json("model"),
  methods: async () => (await json("methods")).methods,
  requestSchema: () => json("request-schema"),
  translations: (language) => json(`translations/${language}`),
  unknownWords: async (prompt) => (await posted("words", { prompt })).unknown,
  /** Send a picture file -> its name, size, and the settings that were written into it. */
  async upload(blob) {
    const answer = await ask("pictures", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: blob,
    });
    return answer.json();
  },
  generate: (body) => posted("generate", body),
  chain: (body) => posted("chain", body),
  jobs: async (client) => (await json(`jobs?client=${encodeURIComponent(client)}`)).jobs,
  job: (id) => json(`jobs/${id}`),
  stopAll: (client) => posted("stop", { client }),
  forget: (id) => ask(`jobs/${id}`, { method: "DELETE" }),
  layers: (body) => posted("layers", body),
  /** The composed picture as a PNG. */
  async compose(body) {
    return (await post("compose", body, { Accept: "image/png" })).blob();
  },
  pictureUrl: (name) => `${BASE}pictures/${encodeURIComponent(name)}`,
};

/**
 * Follow a run until it has ended. told: is called with the job at every change. Returns a function that stops following.
 * A stream that breaks is opened again by the browser itself; where the server forgot the job, `lost` is called.
 */
export function follow(id, told, lost) {
  const stream = new EventSource(`${BASE}jobs/${id}/events`);
  stream.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    if (!isUnderWay(job)) stream.close();
    told(job);
  });
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) lost();
  };
  return () => stream.close();
}

/** Whether a run still waits or works. */
export function isUnderWay(job) {
  return job.state === "queued" || job.state === "running";
}
