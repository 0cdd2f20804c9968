// How the page asks the service: with the reader's key, if it wants one, and not for ever. The key stays in the page's memory, and goes with it.
export const SILENCE = 30_000; // milliseconds in which something must come before the page goes on without it

let key = "";

/** Send a key with all that is asked from now on. */
export const useKey = (text) => { key = text; };

/** The key in use; empty: none. */
export const keyInUse = () => key;

/** Ask the service, as `fetch` does. */
export const ask = (address, options = {}) => fetch(address, key ? { ...options, headers: { ...options.headers, "X-API-Key": key } } : options);

/** What `work` makes of a signal that ends it after some milliseconds, or with another signal; the browsers that cannot run the model may know neither AbortSignal.timeout nor AbortSignal.any. */
export async function limited(milliseconds, work, signal) {
  const limit = new AbortController(), end = () => limit.abort(), timer = setTimeout(end, milliseconds);
  if (signal?.aborted) end();
  signal?.addEventListener("abort", end);
  try {
    return await work(limit.signal);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", end);
  }
}
