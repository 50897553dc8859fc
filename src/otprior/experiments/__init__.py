"""Comparing and tuning starts for any model: starts, inputs, pieces of work, processes, search."""
