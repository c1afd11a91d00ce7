"""What every inference returns: draws, and what can be asked of them."""
