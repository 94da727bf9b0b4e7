"""Projections that read the same input: which they are, and how they are computed as one.

What stands for several of them, from a model's code to one operator:

* `readers.Kind`: their paths, the numbers of blocks left out; `readers.Readers`: all kinds of a model.
* `together.Together`: those of one block within a training pass, computed in one autograd function.
* `lean.projection.Joined`: what one of them knows of `Together`, which imports it.
* `lean.seam.Joint`: their seams in a compiled block, one operator; within it `Together` computes, where there is one.
* `products.ManyKernels`: the products of their adapters, in one call; on a CUDA device `triton_many.TritonMany`.
"""
