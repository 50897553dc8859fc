"""Mode mixture: images that a classifier takes for two things at once.

An image is *mixed* if at least two classes have a probability of at least `limit`, by the softmax of the classifier's
logits. Real images that lie between two classes are mixed too, the more of them the weaker the classifier, so the share
means something only beside that of held-out real images: their difference is what the sampler adds. The rule is
that of the evaluation script published with DPM-OT, which tries limits from 0.1 to 0.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from otprior.utils.validation import require


def mixture_mask(logits: Tensor, limit: float) -> Tensor:
    """Which images are mixed.

    Arguments:
        logits: Of a classifier, shape (n, classes), at least two classes.
        limit: Probability that at least two classes reach, in (0, 0.5].

    Returns:
        Shape (n,), bool.
    """
    right = logits.ndim == 2 and logits.shape[1] >= 2
    require(right, "logits", "of shape (n, classes) with two classes at least", tuple(logits.shape))
    require(0.0 < limit <= 0.5, "limit", "in (0, 0.5]: two classes cannot both reach more", limit)
    second = torch.softmax(logits.double(), dim=1).topk(2, dim=1).values[:, 1]
    return second >= limit
