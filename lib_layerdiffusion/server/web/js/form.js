// What is asked for: the form's values, what they mean for the chosen method, and the request that they make.

import { createStore, recall, remember } from "./store.js";

export const LAYERS = ["foreground", "background", "blended"];
const SLOTS = [...LAYERS, "init", "mask"];
const LARGEST_SEED = 2n ** 63n - 1n;

/** The form of this tab, as it was before a reload. model, methods, schema: the server's answers. */
export function createForm(model, methods, schema) {
  const names = Object.keys(schema.properties);
  const fresh = () => ({
    ...Object.fromEntries(names.map((name) => [name, model.defaults[name] ?? null])),
    prompt: model.defaults.prompt ?? "",
    scene: "",
    chained: false,
    seed: "",
    pictures: {},
  });
  const usable = methods.filter((method) => method.usable);
  const kept = recall("form") ?? {};
  const store = createStore({ ...fresh(), ...kept });
  if (!usable.some((method) => method.label === store.get().method)) store.set({ method: usable[0]?.label ?? "" });
  store.watch((_, state) => remember("form", state));
  const form = { store, names, model, schema, usable, fresh };
  form.method = () => usable.find((method) => method.label === store.get().method) ?? usable[0];
  return form;
}

/** Methods as cards: the first usable one of each title. */
export function cardsOf(form) {
  const seen = new Map();
  for (const method of form.usable) {
    if (!seen.has(method.title) || method.preferred) seen.set(method.title, method);
  }
  return [...seen.values()].sort((one, other) => place(one) - place(other));
}

/** From the plainest to what needs most: by the pictures that go in, then by the layers that come out. */
function place({ inputs, layers }) {
  return inputs.length * 10 + (inputs.includes("foreground") ? 1 : 0) + (inputs.length ? 0 : (layers.length - 1) * 6);
}

/** The picture that a two-step chain begins with, "" where the chosen method begins none. */
export function chainStart(form) {
  const { inputs, layers } = form.method() ?? { inputs: [], layers: [] };
  const makesBlended = layers.some((row) => row.layer === "blended");
  return makesBlended && inputs.length === 1 && inputs[0] !== "blended" ? inputs[0] : "";
}

/** Whether two steps can give what the chosen method gives in one, as layers. */
export function canChain(form) {
  const { title } = form.method() ?? {};
  return chainStart(form) !== "" && form.usable.some((method) => method.title === title && method.layers.length === 1);
}

/** Whether the request will be a chain. */
export function isChained(form) {
  return form.store.get().chained && canChain(form);
}

/** The body of `POST generate` or `POST chain`: what differs from the model's defaults, and what the method takes. */
export function requestOf(form, client) {
  const state = form.store.get();
  const body = { prompt: state.prompt, client, attended: true };
  for (const name of form.names) {
    if (SLOTS.includes(name) || ["prompt", "client", "attended", "method", "seed", "enabled"].includes(name)) continue;
    if (state[name] !== null && state[name] !== form.model.defaults[name]) body[name] = state[name];
  }
  // One side alone says nothing: the other may well be the model's own.
  if (body.width !== undefined || body.height !== undefined)
    Object.assign(body, { width: state.width, height: state.height });
  if (state.seed !== "") body.seed = state.seed;
  return isChained(form) ? chainBody(form, state, body) : generateBody(form, state, body);
}

function generateBody(form, state, body) {
  const method = form.method();
  body.method = method.label;
  for (const slot of [...method.inputs, "init", "mask"]) {
    if (state.pictures[slot]) body[slot] = state.pictures[slot].name;
  }
  for (const layer of LAYERS) {
    if (!method.own_prompts.includes(layer)) delete body[`${layer}_prompt`];
  }
  if (!body.init) {
    delete body.strength;
    delete body.mask;
  }
  return { route: "generate", body };
}

function chainBody(form, state, body) {
  for (const layer of LAYERS) delete body[`${layer}_prompt`];
  delete body.strength;
  const given = chainStart(form);
  if (state.pictures[given]) body[given] = state.pictures[given].name;
  return { route: "chain", body: { ...body, scene: state.scene } };
}

/** Condition pictures that are still missing. */
export function missingPictures(form) {
  const { pictures } = form.store.get();
  return (form.method()?.inputs ?? []).filter((layer) => !pictures[layer]);
}

/** What is wrong with a value, as a sentence to translate, "" for nothing. Said beside the field while typing. */
export function problemOf(form, name, value) {
  if (name === "seed") return seedProblem(value);
  const { type, minimum, maximum } = form.schema.properties[name] ?? {};
  if (type !== "integer" && type !== "number") return "";
  if (value === "" || !Number.isFinite(Number(value))) return ["A number is missing here."];
  if (type === "integer" && !Number.isInteger(Number(value))) return ["This must be a whole number."];
  const low = minimum ?? Number.NEGATIVE_INFINITY;
  const high = maximum ?? Number.POSITIVE_INFINITY;
  if (value < low || value > high) return ["This must be from {low} to {high}.", { low, high }];
  return multipleProblem(form, name, value);
}

function multipleProblem(form, name, value) {
  if (name !== "width" && name !== "height") return "";
  const { multiple, smallest_side: low, largest_side: high } = form.model.limits;
  if (value < low || value > high) return ["This must be from {low} to {high}.", { low, high }];
  return value % multiple ? ["This must be a multiple of {multiple}.", { multiple }] : "";
}

function seedProblem(value) {
  if (value === "") return "";
  if (!/^-?\d+$/.test(value)) return ["A seed is a whole number; leave it empty for a random one."];
  if (BigInt(value) > LARGEST_SEED || BigInt(value) < -1n) {
    return ["This must be from {low} to {high}.", { low: 0, high: String(LARGEST_SEED) }];
  }
  return "";
}

/**
 * Put a request's values (of an earlier run, or of a picture's infotext) into the form; what they do not say becomes the
 * default. pictures: what is known of the pictures that they name. seed: whether theirs is taken.
 */
export function restore(form, request, { seed = true, pictures = {} } = {}) {
  const values = form.fresh();
  for (const name of form.names) {
    if (request[name] !== undefined && !SLOTS.includes(name)) values[name] = request[name];
  }
  values.seed = seed && request.seed !== undefined && request.seed !== null ? String(request.seed) : "";
  values.scene = request.scene ?? "";
  values.pictures = {};
  for (const slot of SLOTS) {
    if (typeof request[slot] === "string") values.pictures[slot] = pictures[slot] ?? { name: request[slot] };
  }
  values.chained = request.scene !== undefined;
  if (values.chained) values.method = chainMethod(form, request);
  if (!form.usable.some((method) => method.label === values.method)) values.method = form.store.get().method;
  form.store.set(values);
}

function chainMethod(form, request) {
  const given = request.background ? "background" : "foreground";
  const first = form.usable.filter(({ inputs }) => inputs.length === 1 && inputs[0] === given);
  return (first.find((method) => method.layers.length === 1) ?? first[0])?.label;
}
