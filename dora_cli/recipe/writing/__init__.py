"""A recipe written out: as YAML, with a comment at every key, as a JSON Schema."""
