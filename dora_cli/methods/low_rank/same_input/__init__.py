"""Projections that read the same input: which they are, and how they are computed as one."""
