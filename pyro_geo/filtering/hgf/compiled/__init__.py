"""The filter as loops of numba over lanes of numbers, with its adjoint.

Modules:
    operator: the filter and its surprise, with gradients, for tensors.
"""
