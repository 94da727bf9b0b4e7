"""Whether steps can be captured in CUDA graphs, and the graphs."""
