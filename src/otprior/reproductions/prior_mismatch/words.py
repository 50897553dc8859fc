"""What the run found, in the words at the head of its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otprior.compare import paired_fid_difference
from otprior.reproductions.prior_mismatch.tables import Finding, error_range, gates, leaves_signal

__all__ = ["lead"]


def lead(findings: Sequence[Finding], many: int) -> dict[str, Any]:
    """Title and sentences: starts at T in `many` evaluations, for all images, whatever their figures are."""
    statements = [gate for each in findings for gate in gates(each)]
    title = "Where no signal is left at T, there is nothing to correct"
    if statements:
        reached = sum(gate["reached"] for gate in statements)
        title = f"A corrected start at T lowers FID in {reached} of {len(statements)} comparisons"
    corrected = [each for each in findings if leaves_signal(each)]
    others = [each for each in findings if not leaves_signal(each)]
    sentences = [_corrected(each, many) for each in corrected]
    if others:
        ends = ", ".join(f"{each.name} at {_excess(each):.1f}" for each in others)
        sentences.append(f"Next to nothing to correct; N(0, I) ends above the floor: {ends}.")
    return {"title": title, "sentences": [*sentences, _copies(findings)]}


def _corrected(each: Finding, many: int) -> str:
    place = each.places[0]
    before, *after = place.starts
    changes = []
    for start in after:
        found = paired_fid_difference(each.result, start.rows[-1], before.rows[-1])
        changes.append(f"{start.name} {found.estimate:+.1f} [{found.lo:+.1f}, {found.hi:+.1f}]")
    error = error_range(each, place, before, "data")
    return (
        f"{each.name} (leak {each.terminal.leak:.2g}): N(0, I) is at W2 {error} from p_T, and in "
        f"{many} evaluations ends {_excess(each):.1f} above the floor. Correcting it changes FID by: "
        f"{', '.join(changes)}."
    )


def _excess(each: Finding) -> float:
    return float(each.result.row(each.places[0].starts[0].rows[-1])["excess_fid"])


def _copies(findings: Sequence[Finding]) -> str:
    rates = [
        each.result.row(start.rows[-1])["copy_rate"] for each in findings for start in each.places[0].starts
    ]
    real = findings[0].result.report["reference"]["copy_rate"]
    return (
        f"At most {max(rates):.1%} of these samples count as copies, against {real:.1%} of held-out images."
    )
