"""What every long computation runs on: kernels, noise, schedule, workers, session."""
