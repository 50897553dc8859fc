"""Starts that a study compares with a prior."""
