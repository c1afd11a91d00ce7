"""Examples of docstrings start from the same state as the tests."""

pytest_plugins = ["tests.clean_state"]
