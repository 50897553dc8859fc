"""Semi-discrete optimal transport from N(0, I) to weighted atoms: problem, solver, solution."""
