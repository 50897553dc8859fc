"""What the run found, in tables, a plot and a few sentences: errors and excess FID before and after a correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from otprior.error.terminal import TerminalAudit, TerminalData
from otprior.experiments.comparison import ComparisonResult
from otprior.experiments.gates import difference_gate, paired_fid_difference
from otprior.report import Curves, Gate, ReportTable
from otprior.report.audit.record import ErrorRow
from otprior.report.sampling_report import Lead
from otprior_studies.papers.prior_mismatch.places import NamedStart, Place

# √ᾱ_T below which next to nothing is left to correct: the controls, and what ends at zero SNR.
LEAST_LEAK = 0.01


@dataclass(frozen=True)
class Finding:
    """All that was found for a schedule.

    Attributes:
        name: The schedule.
        prediction: What its network predicts.
        terminal, at_end: Where the process ends, and what of the data is left there.
        places: What was sampled.
        result: The samples' figures.
        errors: Rows of an audit, at every place with signal.
    """

    name: str
    prediction: str
    terminal: TerminalAudit
    at_end: TerminalData
    places: tuple[Place, ...]
    result: ComparisonResult
    errors: tuple[ErrorRow, ...]

    def error(self, place: Place, start: NamedStart, target: str) -> ErrorRow | None:
        """The audit's row of a start for "data" or "population"; None where it was not computed."""
        noise = start.noise if start.prior == "semidiscrete" else None
        for row in self.errors:
            same = (row.prior, row.noise) == (start.prior, noise)
            by_class = (row.label is not None) is place.conditional
            if same and by_class and row.timestep == place.timestep and row.target == target:
                return row
        return None


def ends_table(findings: Sequence[Finding]) -> ReportTable:
    """Where each process ends, and how wrong N(0, I) is there."""
    lines: list[list[Any]] = []
    for each in findings:
        place, start = each.places[0], each.places[0].starts[0]
        row = each.error(place, start, "data")
        snr = each.terminal.log_snr
        lines.append(
            [
                each.name,
                each.prediction,
                "−∞" if snr is None else f"{snr:.2f}",
                each.terminal.leak,
                each.at_end.brightness_shift,
                each.at_end.bits,
                error_range(each, place, start, "data"),
                0.0 if row is None else row.mean_part,
                0.0 if row is None else row.covariance_part,
            ]
        )
    return ReportTable.build(
        title="Where the forward process ends",
        note="Leak: signal per unit of x_T. Brightness: by how many standard deviations of its noise it moves the mean "
        "pixel. Bits: what x_T tells of the image, at most. W2 of N(0, I) from p_T of the given data, as an "
        "interval, and its parts by mean and by covariance.",
        columns=[
            "schedule",
            "prediction",
            "log-SNR",
            "leak",
            "brightness",
            "bits",
            "W2",
            "mean",
            "covariance",
        ],
        lines=lines,
    )


def starts_table(each: Finding) -> ReportTable:
    """Errors and excess FID of a schedule's starts, the uncorrected one first in each place."""
    lines: list[list[Any]] = []
    for place in each.places:
        for at, before in enumerate(place.starts[0].specs):
            for start in place.starts:
                spec = start.specs[at]
                figures = each.result.row(spec)
                change = None
                if start is not place.starts[0]:
                    found = paired_fid_difference(each.result, spec, before)
                    change = f"{found.estimate:+.2f} [{found.lo:+.2f}, {found.hi:+.2f}]"
                lines.append(
                    [
                        f"{start.name} at {place.name}{', by class' if place.conditional else ''}",
                        figures.nfe,
                        error_range(each, place, start, "data"),
                        error_range(each, place, start, "population"),
                        figures.excess_fid,
                        change,
                        figures.excess_class_fid,
                        figures.copy_rate,
                        figures.class_accuracy,
                    ]
                )
    return ReportTable.build(
        title=f"{each.name}: before and after",
        note="W2 between p_t and the law of the starts, for the given data and for the population. The change of FID "
        "is from N(0, I) in the same place, on the same seeds, with its 95 % interval over blocks of seeds.",
        columns=[
            "start",
            "evaluations",
            "W2, data",
            "W2, population",
            "excess FID",
            "change",
            "excess class FID",
            "copies",
            "class right",
        ],
        lines=lines,
    )


def error_curves(findings: Sequence[Finding], many: int) -> list[Curves]:
    """Excess FID against prior error at T, a point a schedule; no plot where no schedule leaves any signal there."""
    series: dict[str, list[list[float]]] = {}
    for each in findings:
        place = each.places[0]
        for start in place.starts:
            row = each.error(place, start, "data")
            if each.terminal.alpha == 0:
                error = 0.0
            elif row is None or row.upper is None:
                continue
            else:
                error = (row.lower + row.upper) / 2
            excess = each.result.row(start.specs[-1]).measured("excess_fid")
            series.setdefault(start.name, []).append([error, excess])
    plot = {
        "name": "excess-by-error",
        "title": f"Starts at T, {many} evaluations, a point a schedule",
        "x": "W2 from p_T of the data, middle of its interval",
        "y": "excess FID",
        "series": {name: sorted(points) for name, points in series.items()},
        "log": "",
        "points": True,
    }
    return [Curves.from_json(plot)] if series else []


def gates(each: Finding) -> list[Gate]:
    """That a correction at T lowers FID, where steps are many; none for a schedule that needs none."""
    if each.terminal.leak < LEAST_LEAK:
        return []
    place = each.places[0]
    before = place.starts[0].specs[-1]
    return [
        difference_gate(
            each.result, start.specs[-1], before, f"FID of “{start.specs[-1].label}” less that of N(0, I)"
        )
        for start in place.starts[1:]
    ]


def error_range(each: Finding, place: Place, start: NamedStart, target: str) -> str | None:
    """Lower and upper end of W2, for "data" or "population"; exactly 0 for noise where no signal is left."""
    if place.name == "T" and each.terminal.alpha == 0:
        return "0"
    row = each.error(place, start, target)
    if row is None:
        return None
    upper = "∞" if row.upper is None else f"{row.upper:.3g}"
    return f"{row.lower:.3g} to {upper}"


def lead(findings: Sequence[Finding], gates: Sequence[Sequence[Gate]], many: int) -> Lead:
    """Title and sentences: starts at T in `many` evaluations, for all images, whatever their figures are.

    Arguments:
        findings: One a schedule.
        gates: The statements on each; none where there is nothing to correct.
        many: Evaluations that the statements are about.
    """
    statements = [gate for those in gates for gate in those]
    title = "Where no signal is left at T, there is nothing to correct"
    if statements:
        reached = sum(gate.reached for gate in statements)
        title = f"A corrected start at T lowers FID in {reached} of {len(statements)} comparisons"
    pairs = list(zip(findings, gates, strict=True))
    sentences = [_corrected(each, those, many) for each, those in pairs if those]
    others = [each for each, those in pairs if not those]
    if others:
        ends = ", ".join(f"{each.name} at {_excess(each):.1f}" for each in others)
        sentences.append(f"Next to nothing to correct; N(0, I) ends above the floor: {ends}.")
    return Lead(title=title, sentences=(*sentences, _copies(findings)))


def _corrected(each: Finding, gates: Sequence[Gate], many: int) -> str:
    place = each.places[0]
    before, *after = place.starts
    changes = []
    for start, gate in zip(after, gates, strict=True):
        assert gate.interval is not None
        low, high = gate.interval
        changes.append(f"{start.name} {gate.statistic:+.1f} [{low:+.1f}, {high:+.1f}]")
    error = error_range(each, place, before, "data")
    return (
        f"{each.name} (leak {each.terminal.leak:.2g}): N(0, I) is at W2 {error} from p_T, and in "
        f"{many} evaluations ends {_excess(each):.1f} above the floor. Correcting it changes FID by: "
        f"{', '.join(changes)}."
    )


def _excess(each: Finding) -> float:
    return float(each.result.row(each.places[0].starts[0].specs[-1]).measured("excess_fid"))


def _copies(findings: Sequence[Finding]) -> str:
    rates = [
        each.result.row(start.specs[-1]).measured("copy_rate")
        for each in findings
        for start in each.places[0].starts
    ]
    real = findings[0].result.report.reference.measured("copy_rate")
    return (
        f"At most {max(rates):.1%} of these samples count as copies, against {real:.1%} of held-out images."
    )
