"""What the run found, in the words at the head of its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otprior_studies.papers.prior_mismatch.tables import Finding, error_range


def lead(findings: Sequence[Finding], gates: Sequence[list[dict[str, Any]]], many: int) -> dict[str, Any]:
    """Title and sentences: starts at T in `many` evaluations, for all images, whatever their figures are.

    Arguments:
        findings: Of each schedule.
        gates: The statements on each; none where there is nothing to correct.
        many: Evaluations that the statements are about.
    """
    statements = [gate for those in gates for gate in those]
    title = "Where no signal is left at T, there is nothing to correct"
    if statements:
        reached = sum(gate["reached"] for gate in statements)
        title = f"A corrected start at T lowers FID in {reached} of {len(statements)} comparisons"
    pairs = list(zip(findings, gates, strict=True))
    sentences = [_corrected(each, those, many) for each, those in pairs if those]
    others = [each for each, those in pairs if not those]
    if others:
        ends = ", ".join(f"{each.name} at {_excess(each):.1f}" for each in others)
        sentences.append(f"Next to nothing to correct; N(0, I) ends above the floor: {ends}.")
    return {"title": title, "sentences": [*sentences, _copies(findings)]}


def _corrected(each: Finding, gates: list[dict[str, Any]], many: int) -> str:
    place = each.places[0]
    before, *after = place.starts
    changes = []
    for start, gate in zip(after, gates, strict=True):
        low, high = gate["interval"]
        changes.append(f"{start.name} {gate['statistic']:+.1f} [{low:+.1f}, {high:+.1f}]")
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
