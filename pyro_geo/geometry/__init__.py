"""Curvature operators of targets."""
