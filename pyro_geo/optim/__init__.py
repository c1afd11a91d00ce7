"""Descent and Newton steps of many starts at once."""
