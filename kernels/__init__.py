"""Numba kernels: pure functions over arrays. They import numpy and numba, and each other, only."""
