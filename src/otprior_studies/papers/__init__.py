"""What papers did, done again at the scale of what is at hand: a package a paper.

`otprior reproduce NAME --out DIR` runs one in a work folder next to DIR, piece by piece, so that an interrupted run
goes on; then it writes a report. `docs/papers.md` has a section a paper: what it describes, where that is here, what
came out, where the two differ, and what could not be reproduced.

To add one:

1. write a package here whose `__init__` holds its `Settings` and a `Study` (`otprior.experiments.study`);
2. name it in `pyproject.toml`, in the entry-point group `otprior.studies`;
3. add its section to `docs/papers.md`, and a line to `CHANGELOG.md`.
"""
