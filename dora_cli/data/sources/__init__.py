"""Where examples come from: the hub, official files, own tables, or generated text; each read and checked."""
