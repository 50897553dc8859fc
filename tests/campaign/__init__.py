"""Mutated inputs, kills, full disks: run by hand, `make campaign`; see `__main__` for what it does and writes.

Pytest does not collect it. Every case follows from the seed and its number, so each failure can be played again.
"""
