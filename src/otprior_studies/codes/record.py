"""The report of a study of codes.

Statistics of pairings are 0 for an optimal map; angles are in degrees, of which 90 reads "90 or more".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from otprior.report.record import Count, Limits, Many, NonNegative, Record, Report

Angle = Annotated[float, Field(ge=0, le=90)]


class Statistic(Record):
    """A statistic of a map.

    Attributes:
        whole: Of all points.
        mean, interval: Over disjoint sets of points.
        alike: The turn of an optimal map that looks like this one; None where it looks optimal.
    """

    whole: NonNegative
    mean: NonNegative
    interval: Limits
    alike: Angle | None


class CodeMap(Record):
    """A map between images and noise.

    Attributes:
        name, note: What it is.
        optimal_by_construction: Whether it is known to be optimal.
        points, subset, sets: Number of points, and the size and number of the disjoint sets.
        cost, best: Mean square distance of its pairs, and of the best pairing.
        longest_cycle: Length of the longest exchange of partners.
        statistics: By name: "excess", "lost", "moved", "crossed", "crossed_near".
    """

    name: str
    note: str
    optimal_by_construction: bool
    points: Count
    subset: Count
    sets: Count
    cost: NonNegative
    best: NonNegative
    longest_cycle: Count
    statistics: dict[str, Statistic]


class Power(Record):
    """The smallest turn of an optimal map that each statistic would have caught, with so many points."""

    points: Count
    excess: Angle
    lost: Angle
    moved: Angle
    crossed: Angle
    crossed_near: Angle


class MapGroup(Record):
    """Maps of the same points, and the power of the test."""

    name: str
    maps: Many[CodeMap]
    power: Many[Power]

    def power_at(self, points: int) -> Power:
        """The power with so many points."""
        return next(row for row in self.power if row.points == points)


class Moment(Record):
    """The network's own skewness at a log-SNR; 0 for an exact denoiser."""

    log_snr: float
    mean: float


class Jacobian(Record):
    """Skewness |J − Jᵀ|/|J + Jᵀ| of the decoder at the codes of images; 0 for an optimal map.

    Attributes:
        images, probes: How many.
        mean, interval: Over images.
        degrees, largest_degrees: The same as an angle.
        error: Of the differences by which it is measured.
        own: Of the network by itself.
    """

    images: Count
    probes: Count
    mean: NonNegative
    interval: Limits
    degrees: Angle
    largest_degrees: Angle
    error: NonNegative
    own: Many[Moment]


class Refined(Record):
    """Images encoded again with twice the evaluations, and decoded again."""

    images: Count
    evaluations: Count
    codes_change_by: float
    excess: float
    excess_finer: float
    lost: float
    lost_finer: float
    round_trip_mean: float
    round_trip_largest: float


class Kept(Record):
    """How much of the layout a kind of pair keeps: correlation, its interval, and coherence by frequency."""

    kept: Annotated[float, Field(ge=-1, le=1)]
    interval: Limits
    by_frequency: Many[float]


class SwapFigures(Record):
    """What swapped codes keep of an image's layout, by kind of pair."""

    between: Literal["classes", "networks"]
    cutoff: Count
    images: Count
    pairs: Count
    rows: dict[str, Kept]


class CodeFigures(Record):
    """What a study of codes found.

    Attributes:
        model, data, images, dim: What was encoded.
        labels: What the network was given as labels.
        evaluations: Network evaluations for one image.
        mean_square: Mean square of an entry of a code.
        groups: Maps between images and noise.
        jacobian: None where it was not probed.
        refined: What the steps of the encoder cost.
        swaps: None where no codes were swapped.
    """

    model: str
    data: str
    images: Count
    dim: Count
    labels: str = Field(alias="told")
    evaluations: Count
    mean_square: NonNegative
    groups: Many[MapGroup]
    jacobian: Jacobian | None
    refined: Refined
    swaps: SwapFigures | None

    @property
    def network(self) -> CodeMap:
        """The network's encoder among the maps from images to codes."""
        return self.groups[0].maps[0]


class CodesReport(Report):
    """The report of `otprior codes`."""

    codes: CodeFigures
