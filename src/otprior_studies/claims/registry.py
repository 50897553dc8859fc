"""Finds and runs the claims: every function in a module of this package that `claim` decorates.

To add a claim, write a module with such a function; no list needs to be edited.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from otprior.utils.validation import invalid
from otprior_studies import claims as package
from otprior_studies.claims.claim import Claim, Effort, Finding


@dataclass(frozen=True)
class Result:
    """A claim with its finding, and the seconds that the test took."""

    claim: Claim
    finding: Finding
    seconds: float

    def row(self) -> dict[str, Any]:
        """The claim's entry among the claims of report.json."""
        found = self.finding
        return {
            "id": self.claim.id,
            "paper": self.claim.paper,
            "statement": self.claim.statement,
            "statistic": found.statistic,
            "interval": list(found.interval),
            "power": found.power,
            "threshold": found.threshold,
            "verdict": found.verdict.value,
        }

    def details(self) -> dict[str, Any]:
        """The claim's entry among the details of report.json."""
        found = self.finding
        return {
            "why": found.why,
            "seconds": round(self.seconds, 2),
            "figures": found.details,
            "curves": [asdict(curves) for curves in found.curves],
        }


@cache
def all_claims() -> tuple[Claim, ...]:
    """Every claim, in alphabetical order of modules and then in the module's own order."""
    found: list[Claim] = []
    for module in sorted(info.name for info in iter_modules(package.__path__)):
        values = vars(import_module(f"{package.__name__}.{module}")).values()
        found += [value for value in values if isinstance(value, Claim)]
    names = [claim.id for claim in found]
    assert len(set(names)) == len(names), names
    return tuple(found)


def find_claims(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims with these identifiers, in this order; an identifier may be the beginning of several.

    Raises:
        ValueError: If no claim has such an identifier.
    """
    chosen: dict[str, Claim] = {}
    for name in ids:
        fitting = [claim for claim in all_claims() if claim.id == name]
        fitting = fitting or [claim for claim in all_claims() if claim.id.startswith(name)]
        if not name or not fitting:  # (Every name begins with nothing.)
            raise invalid("claim", "one of " + ", ".join(claim.id for claim in all_claims()), name)
        chosen |= {claim.id: claim for claim in fitting}
    return tuple(chosen.values())


def run_claims(
    claims: Sequence[Claim], effort: Effort, listen: Callable[[int, Claim], None] = lambda done, claim: None
) -> list[Result]:
    """Runs claims one after another.

    Arguments:
        claims: The claims to run.
        effort: How much work, and which random numbers; a claim's result does not depend on the other claims.
        listen: Called before each claim, with the number done so far.
    """
    results = []
    for done, claim in enumerate(claims):
        listen(done, claim)
        started = time.perf_counter()
        finding = claim.run(effort)
        results.append(Result(claim, finding, time.perf_counter() - started))
    return results
