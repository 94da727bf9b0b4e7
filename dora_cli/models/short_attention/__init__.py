"""Attention of encoders over short texts by two kernels, within training passes on a GPU."""
