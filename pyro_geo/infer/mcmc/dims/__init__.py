"""Dissipative sampling of loss minima."""
