"""An audit in words."""

from __future__ import annotations

from collections.abc import Sequence

from otprior.report.audit.record import Audit, CostRow, Decision, ErrorRow

_GRADES = {
    "nothing left": "no signal is left at T, where sampling begins",
    "negligible": "what is left of the signal at T does not matter",
    "small": "some of the signal is left at T, where sampling assumes none",
    "large": "a lot of the signal is left where sampling begins and assumes none",
}


def audit_headline(audit: Audit) -> str:
    """What was found, in a line."""
    return f"{audit.name}: {_GRADES[audit.verdict.grade]}"


def audit_summary(audit: Audit) -> list[str]:
    """The audit in a few sentences: the end, the errors at the middle timestep, the costs."""
    sentences = [f"{audit.verdict.finding} {audit.verdict.remedy.removesuffix('.')}."]
    if audit.data is not None:
        sentences.append(
            f"A latent at T carries at most {short(audit.data.bits)} bits about its image, and the data's mean "
            f"shifts it by {short(audit.data.mean_shift)} in all."
        )
    groups = audit.errors_by_start("data")
    if groups:
        sentences += _errors_in_words(groups, _middle(audit))
    for timestep in dict.fromkeys(row.timestep for row in audit.costs):
        sentences.append(_cost_in_words([row for row in audit.costs if row.timestep == timestep]))
    failed = ", ".join(row.title for row in audit.checks if not row.consistent)
    if failed:
        sentences.append(
            f"WARNING: distances of samples fall outside the interval of {failed}: please report this."
        )
    elif audit.checks:
        sentences.append("Sliced, max-sliced and discrete distances of samples agree with the intervals.")
    if audit.decision is not None:
        sentences.append(decision_text(audit.decision))
    return sentences


def decision_text(decision: Decision) -> str:
    """The start that is right and why, in a sentence."""
    end = "white noise at T is "
    end += "exactly the latents' law" if not decision.white_error else (
        f"{short(decision.white_error)} standard deviations (W2) from the latents' law, which about "
        f"{decision.share:.1%} of the samples show (the mean of so many images is uncertain by "
        f"{short(decision.noise_floor)})"
    )  # fmt: skip
    usual = decision.white_is_right is not False
    if decision.white_is_right:
        text, what = "Decision: N(0, I) at T is the right start", "it"
    elif usual:
        text, what = "Decision: N(0, I) at T is right in law, but no audited start is in so few steps", "it"
    else:
        what = decision.title if decision.prior == "identity" or decision.name else f"a {decision.title}"
        text = f"Decision: start at t* = {decision.timestep:g} from {what}, not from N(0, I) at T"
        what = "the recommended start"
    reasons = [end]
    if not usual and decision.upper is not None:
        reasons.append(f"{what} is at most {short(decision.upper)} from the law at its own t*")
    if decision.steps is not None:
        samples = f"{decision.steps} steps from {what} end at most {short(decision.total)} from what many steps give"
        if not usual:
            samples += f", from N(0, I) {short(decision.white_total)}"
        reasons.append(f"{samples}, where the data spread over {short(decision.spread)}")
    return f"{text}: {'; '.join(reasons)}."


def error_text(row: ErrorRow) -> str:
    """The interval, four figures at most."""
    low = short(row.lower)
    if row.upper is None:
        return f"≥ {low}"
    high = short(row.upper)
    return low if low == high else f"{low} – {high}"


def short(value: float | None) -> str:
    """A distance, three figures or two places."""
    if not value:
        return "–" if value is None else "0"
    return f"{value:.2f}" if value >= 10 else f"{value:.3g}"


def _middle(audit: Audit) -> float:
    if audit.costs:
        return audit.costs[0].timestep
    times = sorted({row.timestep for row in audit.errors})
    return times[len(times) // 2]


def _errors_in_words(groups: Sequence[Sequence[ErrorRow]], timestep: float) -> list[str]:
    here = [row for rows in groups for row in rows if row.timestep == timestep]
    plain = next((row for row in here if row.prior == "identity"), None)
    sentences = []
    if plain is not None:
        text = f"At t* = {timestep:g} white noise is {error_text(plain)} away (W2) from the data's latents"
        if plain.mean_part is not None and plain.lower > 0:
            text += f", {short(plain.mean_part)} of it in the mean and "
            text += f"{short(plain.covariance_part)} in the covariance"
        sentences.append(text + ".")
    for row in here:
        if row is plain:
            continue
        title = row.title if row.name else row.title[0].upper() + row.title[1:]
        text = f"{title}: {error_text(row)}"
        if plain is not None and plain.lower > 0 and row.upper is not None:
            removed = 1 - row.upper / plain.lower
            text += f", so that at least {removed:.0%} of the error is gone" if removed > 0 else ""
        sentences.append(text + ".")
    return sentences


def _cost_in_words(costs: Sequence[CostRow]) -> str:
    first = costs[0]
    moved = ", ".join(f"{row.title} {short(row.cost)}" for row in costs)
    return (
        f"In samples, {first.nfe} evaluations from t* = {first.timestep:g}: a start of another law than the "
        f"latents' moves a sample, root mean square, by at most: {moved}. Solving in {first.nfe} steps in place of "
        f"{first.fine_nfe} moves it by {short(first.stepping)}."
    )
