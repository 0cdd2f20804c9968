// How the page asks the service: with the reader's key, if it wants one. The key stays in the page's memory, and goes with it.
let key = "";

/** Send a key with all that is asked from now on. */
export const useKey = (text) => { key = text; };

/** The key in use; empty: none. */
export const keyInUse = () => key;

/** Ask the service, as `fetch` does. */
export const ask = (address, options = {}) => fetch(address, key ? { ...options, headers: { ...options.headers, "X-API-Key": key } } : options);
