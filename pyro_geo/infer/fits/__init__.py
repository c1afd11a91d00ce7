"""Fits of any kind as numbers: draws in unconstrained space, and moments of guides."""
