"""What a report says, in sentences a reader can check against its table.

The sentences are built from the figures whatever they turn out to be: a start that saves nothing, or that
copies, is said to. The start put first is the one of lowest FID among those that copy no more than
held-out real images do (by at most `COPY_MARGIN`), and take at most `headline_nfe` evaluations where a report
sets that; quality bought with training images is named apart. A report on something other than its best start
brings title and first sentences with it, as `lead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otprior.report.metric import METRIC
from otprior.report.rows import copies_more, evaluations, family, has_diverged, level, quality, start_label
from otprior.report.sampling_report import Figures, ReportRow, SamplingReport

_SHARE, _FID = METRIC["copy_rate"], METRIC["fid"]


@dataclass(frozen=True)
class KeyRows:
    """The rows that a report's conclusions rest on; None where a report has no such row.

    Arguments:
        best: Lowest FID among starts with a prior, of as few evaluations as the report asks for, that copy no
            more than held-out images do; if none does, lowest FID among all such starts.
        matches: The N(0, I) row of fewest evaluations whose FID is no higher than that of `best`.
        short: N(0, I) rows that fall short of it: the best with at most as many evaluations as `best`, and
            the best with fewer than `matches`; one of the two if they are the same.
        closest: Best N(0, I) row of all.
        copying: Starts with a prior that copy more than held-out images, most first.
    """

    best: ReportRow | None
    matches: ReportRow | None
    short: tuple[ReportRow, ...]
    closest: ReportRow | None
    copying: tuple[ReportRow, ...]


def key_rows(report: SamplingReport) -> KeyRows:
    """Picks the rows that the summary describes."""

    def lowest(rows: Sequence[ReportRow]) -> ReportRow | None:
        return min(rows, key=lambda row: level(report, row), default=None)

    rows = [row for row in report.rows if quality(report, row)[0] is not None and not has_diverged(row)]
    plain = [row for row in rows if row.prior == "none" and row.nfe is not None]
    starts = [row for row in rows if row.has_prior and row.nfe is not None]
    few = [row for row in starts if evaluations(row) <= (report.headline_nfe or evaluations(row))]
    best = lowest([row for row in few if copies_more(report, row) is False]) or lowest(few)
    copying = [row for row in starts if copies_more(report, row)]
    copying.sort(key=lambda row: -(row.copy_rate or 0.0))
    if best is None:
        return KeyRows(None, None, (), lowest(plain), tuple(copying))
    behind = [row for row in plain if level(report, row) > level(report, best)]
    as_good = [row for row in plain if level(report, row) <= level(report, best)]
    matches = min(as_good, key=lambda row: (evaluations(row), level(report, row)), default=None)
    same_cost = lowest([row for row in behind if evaluations(row) <= evaluations(best)])
    before = lowest([row for row in behind if matches is None or evaluations(row) < evaluations(matches)])
    short = [row for row in (same_cost, before) if row is not None]
    return KeyRows(
        best=best,
        matches=matches,
        short=tuple(short[:1] if len(short) == 2 and short[0] is short[1] else short),
        closest=lowest(plain),
        copying=tuple(copying),
    )


def headline(report: SamplingReport) -> str:
    """One line that holds whatever the figures are."""
    if report.lead:
        return report.lead.title
    found = key_rows(report)
    best, matches = found.best, found.matches
    if best is None:
        return "Samples measured against held-out real images"
    cost = f"{_name(best)} with {_cost(best)}"
    match copies_more(report, best):
        case True:
            lowest = "has the lowest FID of the starts with a prior, and" if _several(report) else "makes"
            return f"{cost} {lowest} more copies than real images have"
        case None:
            return f"{cost}: quality was measured, copying was not"
    if matches is not None and evaluations(matches) <= evaluations(best):
        return f"N(0, I) with {matches.nfe} is at least as good as {cost}"
    # Rows with fewer evaluations than `matches` are all behind; the dearest of them makes the comparison.
    dearest = max(found.short, key=lambda row: evaluations(row), default=None)
    if dearest is None and matches is not None:
        return f"{cost}; N(0, I) with {matches.nfe} is at least as good"
    if dearest is None:
        return f"{cost} has an FID {_above_real(report, best)}"
    relation = "on a par with" if _overlap(report, best, dearest) else "ahead of"
    return f"{cost} is {relation} N(0, I) with {dearest.nfe}"


def summary(report: SamplingReport) -> list[str]:
    """The report in a few plain paragraphs: what was found first, what it was measured on last."""
    found = key_rows(report)
    own = report.lead
    sentences = (
        *(own.sentences if own else _headline(report, found)),
        _diverged(report),
        _copying(report, found),
        _source(found),
        _seeds(report),
        _gates(report),
        _measured(report),
    )
    return [sentence for sentence in sentences if sentence]


def _measured(report: SamplingReport) -> str:
    features, reference = report.features, report.reference
    sets = (report.settings or {}).get("seed_sets", 1)
    # FID is taken on each set, and averaged.
    sizes = sorted({row.samples // sets for row in report.rows if row.samples is not None})
    count = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}" if sizes else ""
    count = f"{sets} sets of {count}" if sets > 1 else count
    parts = [f"Each row is measured on {count} samples." if count else ""]
    if features.name:
        parts.append(f"FID is taken on the features of {features.name}, so it does not compare with ")
        parts[-1] += "published FIDs."
    if reference.fid_floor is not None:
        size = f"{reference.n:,} held-out" if reference.n is not None else "Held-out"
        parts.append(f"{size} real images score {_FID.text(reference.fid_floor)} themselves: the floor.")
        if sizes and reference.n is not None and sizes != [reference.n]:
            parts.append("Rows of another size carry another bias: fewer images give a higher FID.")
    quoted = [row for row in report.rows if quality(report, row)[0] is not None]
    if quoted and all(quality(report, row)[1] is None for row in quoted):
        parts.append("No interval was computed for FIDs here: small differences may be chance.")
    return " ".join(part for part in parts if part)


def _headline(report: SamplingReport, found: KeyRows) -> list[str]:
    best = found.best
    if best is None:
        if found.closest is None:
            return ["No row has an FID, so nothing is said about quality."] if report.rows else []
        lowest = f"From N(0, I) the lowest FID comes with {_rival(report, found.closest)}."
        return [f"No start with a prior is among these rows. {lowest}"]
    standing = _above_real(report, best, inside=True)
    first = f"With {_cost(best).replace('eval', 'network eval')}, {_name(best)} has an FID {standing}"
    if best.copy_rate is None:
        first += ". Its copies were not counted, so that the FID alone proves little."
    else:
        first += f", and {_share(best)} of its samples count as copies"
        real = _real_share(report, best)
        first += f", against {real} of held-out images." if real else "."
    if copies_more(report, best) and _several(report):
        first += (
            " No start with a prior is known to come within a percentage point of held-out images in that."
        )
    return [sentence for sentence in (first, _saving(report, found), _fewer(report, best)) if sentence]


def _saving(report: SamplingReport, found: KeyRows) -> str:
    """The best start with a prior against N(0, I) at T."""
    best, matches = found.best, found.matches
    if best is None or found.closest is None:
        return ""
    if matches is not None and evaluations(matches) <= evaluations(best):
        return f"That saves nothing: N(0, I) at T has no higher FID with {_rival(report, matches, best)}."
    behind = "; ".join(_rival(report, row, best) for row in found.short)
    if matches is None:
        return f"No N(0, I) row here reaches that FID. The best: {behind}."
    text = f"From N(0, I) at T that FID takes {_rival(report, matches, best)}."
    return f"{text} The best with fewer: {behind}." if behind else text


def _fewer(report: SamplingReport, best: ReportRow) -> str:
    """The same kind of start with fewer evaluations."""
    rows = [
        row
        for row in report.rows
        if family(row) == family(best) and row.nfe is not None and evaluations(row) < evaluations(best)
        if quality(report, row)[0] is not None and not has_diverged(row)
    ]
    if not rows:
        return ""
    row = min(rows, key=lambda row: (evaluations(row), level(report, row)))
    copies = "" if row.copy_rate is None else f", with {_share(row)} copies"
    return f"With {_cost(row)} the same kind of start has an FID {_standing(report, row)}{copies}."


def _copying(report: SamplingReport, found: KeyRows) -> str:
    others = [row for row in found.copying if row is not found.best]
    if not others:
        return ""
    named = ", ".join(
        f"{_name(row)} at {row.nfe} ({_share(row)}, against {_real_share(report, row)})" for row in others
    )
    return (
        f"More copies than held-out images show: {named}. The FID of such a row counts training "
        "images handed back as good samples; compare it only with rows that copy as much."
    )


def _diverged(report: SamplingReport) -> str:
    named = ", ".join(
        f"{_name(row)} at {row.nfe} ({_SHARE.text(row.diverged)})" for row in report.rows if has_diverged(row)
    )
    hint = "They are no rivals: try more evaluations, another scheduler or spacing."
    return (
        f"Samples far outside [-1, 1] or of one colour, of samplers that diverged: {named}. {hint}"
        if named
        else ""
    )


def _source(found: KeyRows) -> str:
    row = found.best
    if row is None or row.source_rate is None:
        return ""
    return (
        f"In {_SHARE.text(row.source_rate)} of the samples from {_name(row)} the nearest training "
        "image is the one that the start was built on."
    )


def _seeds(report: SamplingReport) -> str:
    rows = [row for row in report.rows if row.seed_agreement is not None and row.has_prior]
    if not rows:
        return ""
    row = max(rows, key=lambda row: row.seed_agreement or 0.0)
    return (
        f"Of the starts with a prior, {_name(row)} keeps the seed's image best: "
        f"{_SHARE.text(row.seed_agreement)} of its samples fall in the class that the full sampler "
        "reaches from the same noise."
    )


def _gates(report: SamplingReport) -> str:
    gates = report.gates
    if not gates:
        return ""
    reached = sum(gate.reached for gate in gates)
    if reached == len(gates):
        return f"All statements that were to be shown ({reached}) are reached."
    verb = "are" if reached > 1 else "is"
    return f"Of {len(gates)} statements that were to be shown, {reached or 'none'} {verb} reached."


def _standing(report: SamplingReport, row: ReportRow, inside: bool = True) -> str:
    """ "3.10 above the floor (FID 5.10; 95% interval of the excess [2.80, 3.40])"."""
    value, ends = quality(report, row)
    assert value is not None
    shown = f"95% interval {_FID.interval_text(ends)}" if ends else ""
    if report.reference.fid_floor is None and row.excess_fid is None:
        text, notes = f"of {_FID.text(value)}", [shown]
    else:
        text = f"{_FID.text(abs(value))} {'above' if value >= 0 else 'below'} the floor"
        fid = "" if row.fid is None else f"FID {_FID.text(row.fid)}"
        notes = [fid, shown.replace("interval", "interval of the excess")]
    notes = [note for note in notes if note]
    return f"{text} ({'; '.join(notes)})" if notes and inside else text


def _above_real(report: SamplingReport, row: ReportRow, inside: bool = False) -> str:
    """The same in full, "above that of held-out real images", for where "floor" has not been said yet."""
    return _standing(report, row, inside).replace("the floor", "that of held-out real images", 1)


def _rival(report: SamplingReport, row: ReportRow, best: ReportRow | None = None) -> str:
    """ "20 evaluations (DPM++2M, 3.40 above the floor; 95% intervals overlap)"."""
    scheduler = f"{row.scheduler}, " if row.scheduler else ""
    chance = "; 95% intervals overlap" if best is not None and _overlap(report, best, row) else ""
    return f"{_cost(row)} ({scheduler}{_standing(report, row, inside=False)}{chance})"


def _overlap(report: SamplingReport, one: ReportRow, other: ReportRow) -> bool:
    """Whether two rows' intervals overlap, so that chance may have set their order."""
    first, second = quality(report, one)[1], quality(report, other)[1]
    return bool(first and second and first[0] <= second[1] and second[0] <= first[1])


def _several(report: SamplingReport) -> bool:
    return sum(row.has_prior for row in report.rows) > 1


def _name(row: ReportRow) -> str:
    return f"“{start_label(row)}”"


def _share(row: Figures) -> str:
    text = _SHARE.text(row.copy_rate)
    limits = row.copy_rate_interval
    return f"{text} {_SHARE.interval_text(limits)}" if limits else text


def _real_share(report: SamplingReport, row: ReportRow) -> str:
    """The share of copies among held-out images that goes with a row; empty if it was not measured."""
    if row.held_out_copy_rate is not None:
        return _SHARE.text(row.held_out_copy_rate)
    return "" if report.reference.copy_rate is None else _share(report.reference)


def _cost(row: ReportRow) -> str:
    return "1 evaluation" if row.nfe == 1 else f"{row.nfe} evaluations"
