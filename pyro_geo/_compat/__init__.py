"""Private interfaces of other libraries that we use, one module per library."""
