// Dark, light, or as the system has it.

import { $, icon } from './dom.js';

const KEY = 'llm-dit.theme';
const NEXT = { auto: 'light', light: 'dark', dark: 'auto' };
const NAMES = { auto: 'as the system', light: 'light', dark: 'dark' };

const current = () => document.documentElement.dataset.theme ?? 'auto';

function present() {
  const text = `Theme: ${NAMES[current()]}. Change to ${NAMES[NEXT[current()]]}`;
  $('theme').replaceChildren(icon(current()));
  $('theme').title = text;
  $('theme').setAttribute('aria-label', text);
}

function change() {
  const theme = NEXT[current()];
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    // Plain, since theme.js reads it before any module is there.
    if (theme === 'auto') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch { /* Then it holds for this visit. */ }
  present();
}

export function wire() {
  $('theme').onclick = change;
  present();
}
