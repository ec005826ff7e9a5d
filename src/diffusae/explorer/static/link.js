// The state of a page in the fragment of its address, as in `#prompt=a+red+fish&seed=0`.
// A browser keeps the fragment to itself, so a prompt in a link is not in the server's log.

/** The state in the address: names and texts. */
export const readLink = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** Put a state into the address. Values that are null, undefined or "" are left out. */
export const writeLink = state => {
  const kept = Object.entries(state).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const fragment = `#${new URLSearchParams(kept)}`;
  if (fragment !== location.hash) history.replaceState(null, "", fragment);
};

/** Call `act` when the address gets another fragment, such as by a link or by Back. */
export const whenLinkChanges = act => addEventListener("hashchange", act);
