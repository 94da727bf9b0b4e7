"""Pictures for papers and slides, drawn by matplotlib (extra ``plots``): rank maps, budget, training curves, scores.

Every function returns a figure of its own, outside pyplot's state; `canvas.save` writes it.
"""
