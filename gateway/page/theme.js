// Runs before the page is drawn, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem('llm-dit.theme');
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* Storage is switched off; the system's theme holds. */ }
