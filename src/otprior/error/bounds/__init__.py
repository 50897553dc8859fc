"""Bounds on the prior error, one coupling or inequality a file."""
