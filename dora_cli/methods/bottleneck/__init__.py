"""What methods share that insert bottleneck adapters: the layer, its start, its training pass, norms that train."""
