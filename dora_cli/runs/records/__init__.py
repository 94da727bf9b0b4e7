"""The records of a run, one schema each: checked when they are written and when they are read."""
