"""Sampling many rows of a comparison, in processes, resumably.

A row is a start, a scheduler and a grid; its images are a function of their seeds. So work is cut into blocks of
consecutive seeds, each block is done by whichever process is free and becomes one file, and a run that was
interrupted goes on with the blocks that are missing.

`rows` says what a row is, `starts` makes its prior, `sampling` makes a block into a file, `processes` shares out.
"""

from otprior.generation.processes import compiles_networks, kept_processes, run_in_processes
from otprior.generation.rows import OWN_GRID, RowSpec
from otprior.generation.sampling import (
    BATCH,
    Block,
    Models,
    Samples,
    build_pipeline,
    compiled_if,
    load_pipeline,
    network_precision,
    sample_block,
    sampler_of,
)
from otprior.generation.starts import fitted_name

__all__ = [
    "BATCH",
    "OWN_GRID",
    "Block",
    "Models",
    "RowSpec",
    "Samples",
    "build_pipeline",
    "compiled_if",
    "compiles_networks",
    "fitted_name",
    "kept_processes",
    "load_pipeline",
    "network_precision",
    "run_in_processes",
    "sample_block",
    "sampler_of",
]
