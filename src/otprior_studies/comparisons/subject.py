"""What a study is about: a network, and the images that it is given and judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otprior.experiments.comparison import USUAL_ATOMS


@dataclass(frozen=True)
class Subject:
    """A network with its images, which are named as `compare.Study` names them; by default what is bundled.

    Attributes:
        model: A diffusers folder; the bundled network if empty.
        extractor: Folder of the feature extractor; the bundled one if empty.
        atoms: Images that priors are fitted to.
        validation: Real images that settings are chosen on.
        held_out: Real images that give the floor.
        reference: Images that quality is measured against.
    """

    model: str = ""
    extractor: str = ""
    atoms: str = "atoms"
    validation: str = "validation"
    held_out: str = "held_out"
    reference: str = "reference"

    def material(self) -> dict[str, Any]:
        """The fields of a `Study` on the reference images."""
        return {
            "model": self.model,
            "extractor": self.extractor,
            "atoms": USUAL_ATOMS if self.atoms == "atoms" else 0,
            "atoms_from": self.atoms,
            "split": self.reference,
            "real_split": self.held_out,
        }
