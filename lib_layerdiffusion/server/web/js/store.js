// State that tells who listens when it changes.

/** A store of named values. `set` merges and tells every listener which names changed. */
export function createStore(initial) {
  let state = { ...initial };
  const listeners = new Set();
  return {
    get: () => state,
    set(patch) {
      const changed = Object.keys(patch).filter((name) => state[name] !== patch[name]);
      if (!changed.length) return;
      state = { ...state, ...patch };
      for (const listener of [...listeners]) listener(new Set(changed), state);
    },
    /** Listener: (set of changed names, state). With `names` it is only called when one of these changed. */
    watch(listener, ...names) {
      const filtered = (changed, now) => {
        if (!names.length || names.some((name) => changed.has(name))) listener(changed, now);
      };
      listeners.add(filtered);
      return () => listeners.delete(filtered);
    },
  };
}

/** What a tab remembers over a reload; a full or forbidden store remembers nothing. */
export function remember(name, value) {
  try {
    sessionStorage.setItem(`layerdiffusion.${name}`, JSON.stringify(value));
  } catch {
    // Private windows forbid it: the page works, a reload begins anew.
  }
}

/** What `remember` kept, or null. */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(`layerdiffusion.${name}`));
  } catch {
    return null;
  }
}

/** A choice that outlives the session, such as the theme; as `remember` and `recall`. */
export const preference = {
  get(name, otherwise) {
    try {
      return localStorage.getItem(`layerdiffusion.${name}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`layerdiffusion.${name}`, value);
    } catch {
      // As above.
    }
  },
};
