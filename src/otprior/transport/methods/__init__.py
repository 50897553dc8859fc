"""Methods that compute a potential, one a file; `solve` chooses."""
