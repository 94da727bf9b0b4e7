"""A training pass over adapted projections with less work than autograd's own way."""
