"""What a model is made of, found by its structure alone: blocks, projections, embeddings."""
