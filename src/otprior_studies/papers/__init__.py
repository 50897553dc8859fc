"""What the papers did, done again at the scale of what is at hand: a module or package a paper, one command for all.

`otprior reproduce NAME --out DIR` looks the name up in `registry` and runs what it finds in a work folder beside DIR,
piece by piece, so that an interrupted run goes on; then it writes a report. `docs/papers.md` has a section a paper:
what it describes, where that is here, what came out, where the two differ, and what could not be reproduced.

To add one:

1. write a module here, or a package, with a constant `REPRODUCTION` (a `reproduction.Reproduction`): its run is a
   function of a `Request` that returns reports by name, the main one under "";
2. give it a name in `registry.MODULES`;
3. add its section to `docs/papers.md`, and a line to `CHANGELOG.md`.

Settings that a user may change are fields, with defaults, of a frozen dataclass of its own, which checks them when it
is built; `--set NAME=VALUE` sets them on the command line.
"""

from otprior_studies.papers.registry import find, names
from otprior_studies.papers.reproduction import (
    Part,
    Reproduction,
    Request,
    read_settings,
)

__all__ = ["Part", "Reproduction", "Request", "find", "names", "read_settings"]
