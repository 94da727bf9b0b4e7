"""The page of an experiment of many runs."""
