"""Known targets, gates and deliberately broken kernels, for tests of your own too."""
