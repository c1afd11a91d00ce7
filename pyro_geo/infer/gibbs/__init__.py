"""Gibbs posteriors: a prior reweighted by a loss, with properly weighted particles."""
