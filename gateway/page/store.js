// What the browser remembers. Works, forgetfully, where storage is switched off or full.

const PREFIX = 'llm-dit.';

/** Of a storage that is asked for at each use, since asking can already fail. */
const memory = (storage) => ({
  recall(key) {
    try {
      return JSON.parse(storage().getItem(PREFIX + key));
    } catch {
      return null;
    }
  },
  remember(key, value) {
    try {
      if (value === null) storage().removeItem(PREFIX + key);
      else storage().setItem(PREFIX + key, JSON.stringify(value));
    } catch { /* The page works without. */ }
  },
});

/** Kept by the browser, for all its tabs. */
const { recall, remember } = memory(() => localStorage);

/** Kept by this tab, also when it is reloaded. A copy of the tab begins with a copy of it. */
export const tab = memory(() => sessionStorage);

/** This tab's own, which begins as the last of any tab. */
export const own = {
  recall: (key) => tab.recall(key) ?? recall(key),
  remember(key, value) {
    tab.remember(key, value);
    remember(key, value);
  },
};
