"""What `benchmarks/solver.py` is made of: the atoms, the process of a run, its measurement, the tuning, the tables."""
