"""Gradients of two factors, adjusted (LoRA-Pro, Riemannian), and the small eigenproblems behind them."""
