"""Curvature, positive-definite matrices and the Laplace approximation."""
