"""Noise on adapted weights (Flat-LoRA), and its kernels."""
