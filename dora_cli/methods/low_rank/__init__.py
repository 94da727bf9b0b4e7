"""What methods of two factors share: the layer, its components, the kernels, the lean pass and dropout."""
