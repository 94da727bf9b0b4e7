"""The one-page report of runs: HTML, CSS and SVG made from records alone; nothing on the page comes from elsewhere."""
