"""An experiment of many runs: what it came to in words, as tables, and how far it is while it goes on."""
