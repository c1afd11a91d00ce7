"""Hierarchical Gaussian filters: beliefs of a state whose rate of change is hidden."""
