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

/** Brings something into sight, if it is not; smoothly, for those who like motion. */
export function reveal(element, block = 'nearest') {
  const isCalm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  element.scrollIntoView({ block, behavior: isCalm ? 'instant' : 'smooth' });
}
