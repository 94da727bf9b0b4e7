"""Beam and greedy search with all that a step does on the device, so that the host need not wait for a token."""
