"""The live view of a run in a terminal: what is known (`state`), how it looks (`view`, `rank_map`, `marks`), how it
stays (`screen`).
"""
