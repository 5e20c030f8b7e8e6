// Dialogs, each with an entry in the tab's history: Back closes a dialog and does not leave the page.

import { $, setText } from './dom.js';

/** The topmost last. */
const opened = [];
/** A step through the tab's history is under way that this module began. */
let isStepping = false;

const depth = () => history.state?.dialogs ?? 0;

export function openDialog(dialog) {
  if (dialog.open) return;
  dialog.showModal();
  opened.push(dialog);
  settle();
}

/** Gives the tab's history as many entries as there are dialogs. */
function settle() {
  if (isStepping) return;
  if (depth() < opened.length) {
    history.pushState({ dialogs: depth() + 1 }, '');
  } else if (depth() > opened.length) {
    isStepping = true;
    history.go(opened.length - depth());
  }
}

function closed({ target }) {
  const at = opened.indexOf(target);
  if (at >= 0) opened.splice(at, 1);
  settle();
}

function stepped() {
  const isOwn = isStepping;
  isStepping = false;
  // The events of closing come later; by then the count is right.
  if (!isOwn) while (opened.length > depth()) opened.pop().close();
  settle();
}

/** Asks before something is lost. Resolves to whether it may be. */
export function confirm(question, yes) {
  const dialog = $('confirm');
  setText('confirm-text', question);
  setText('confirm-yes', yes);
  dialog.returnValue = 'no';
  openDialog(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Dialogs close by their button and by a click beside them; Escape is the browser's. */
export function wire() {
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog || event.target.closest('[data-close]')) dialog.close();
    });
    dialog.addEventListener('close', closed);
  }
  addEventListener('popstate', stepped);
  // After a reload the entry of a dialog that is no longer open may be there.
  settle();
}

export const isDialogOpen = () => document.querySelector('dialog[open]') !== null;
