// Small helpers around the document. Text goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties, attributes (those with a dash, and `role`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined) continue;
    if (name.includes('-') || name === 'role') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

/** One of the symbols at the top of index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

export function button(label, iconName, onclick, className = '') {
  return make('button', { type: 'button', className, onclick }, icon(iconName), label);
}

export const setText = (id, text) => { $(id).textContent = text; };

export const show = (element, yes = true) => { element.hidden = !yes; };

/** Runs `work` once things have been quiet for a while. */
export function debounce(milliseconds, work) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}

/** Says something to screen readers. */
export const announce = (text) => { if ($('live').textContent !== text) setText('live', text); };

/** Colours a slider up to its thumb. */
export const fillSlider = (range) => {
  range.style.setProperty('--part', (range.value - range.min) / (range.max - range.min));
};

let toastTimer;

/** Says something to everybody for a moment. */
export function toast(text) {
  setText('toast', text);
  show($('toast'));
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => show($('toast'), false), 2500);
}

/** Asks before something is lost. Resolves to whether it may be. */
export function confirm(question, yes) {
  const dialog = $('confirm');
  setText('confirm-text', question);
  setText('confirm-yes', yes);
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

/** Dialogs close by their button and by a click beside them; Escape is the browser's. */
export function wireDialogs() {
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => {
      if (event.target === dialog || event.target.closest('[data-close]')) dialog.close();
    });
  }
}

export const isDialogOpen = () => document.querySelector('dialog[open]') !== null;
