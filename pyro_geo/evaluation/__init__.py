"""Scores of predictions, the plain baselines, and tables that compare them."""
