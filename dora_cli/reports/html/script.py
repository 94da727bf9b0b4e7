"""The page's own script: details of the rank map's cells by mouse, finger and arrow keys.

Without it the page only lacks these.
"""

SCRIPT = """
'use strict';
for (const figure of document.querySelectorAll('figure.ranks')) {
  const output = figure.querySelector('output');
  const rows = [];
  for (const part of figure.querySelectorAll('table')) {
    [...part.querySelectorAll('tbody tr:not(.group-name)')].forEach((row, index) => {
      rows[index] = [...rows[index] || [], ...row.querySelectorAll('td:not(.sum)')];
    });
  }
  const cells = rows.flat().filter(cell => cell.title);
  if (!cells.length) continue;
  for (const cell of cells) {
    const said = cell.title;
    const show = () => { output.textContent = said; };
    cell.setAttribute('aria-description', said);
    cell.removeAttribute('title');
    cell.addEventListener('mouseenter', show);
    cell.addEventListener('focus', () => {
      show();
      for (const other of cells) other.tabIndex = other === cell ? 0 : -1;
    });
  }
  output.hidden = false;
  cells[0].tabIndex = 0;
  figure.addEventListener('keydown', event => {
    const by = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    let row = rows.findIndex(found => found.includes(event.target));
    if (!by || row < 0) return;
    let column = rows[row].indexOf(event.target);
    do {
      row += by[0];
      column += by[1];
    } while (rows[row] && rows[row][column] && !cells.includes(rows[row][column]));
    if (rows[row] && rows[row][column]) rows[row][column].focus();
    event.preventDefault();
  });
}
let opened = [];
addEventListener('beforeprint', () => {
  opened = [...document.querySelectorAll('details:not([open])')];
  for (const part of opened) part.open = true;
});
addEventListener('afterprint', () => {
  for (const part of opened) part.open = false;
});
"""
