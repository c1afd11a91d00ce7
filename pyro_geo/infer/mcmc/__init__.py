"""Batched Markov chains and trajectories on any target."""
