"""The five metrics of the E2E NLG challenge: BLEU, NIST, METEOR, ROUGE-L and CIDEr, as its official script computes
them.

That script (tuetschek/e2e-metrics, with ``-p``) takes BLEU and NIST from its own Python version of NIST's mteval-v13a
and the other three from the MS-COCO caption evaluation. The formulas here are theirs, corner cases included, so that a
number can stand beside published ones.
"""
