"""Hamiltonian Monte Carlo with chains as lanes of one compiled step."""
