"""What a method that allocates ranks chooses from: starts, scores, rotations and budgets, each in its table."""
