"""Small pure tensor maths shared by the methods."""

from pyro_geo.ops.derivatives import BatchedLoss, hvp, value_and_grad, value_grad_hvp

__all__ = ["BatchedLoss", "hvp", "value_and_grad", "value_grad_hvp"]
