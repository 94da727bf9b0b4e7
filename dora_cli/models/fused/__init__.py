"""What of a base model `torch.compile` makes fewer kernels of, within training passes."""
