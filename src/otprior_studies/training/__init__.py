"""Small networks trained from scratch: what a study of another schedule, or of other images, has to begin with.

`schedules` names forward processes, `network` says what is trained and for how long, `loop` trains it in steps that an
interrupted run takes up again bit for bit, `export` writes it as a diffusers folder; `classifier` trains the features
that it is judged by, `splits` shares images out.

It is in the package, and not among the scripts, because reproductions train their networks; the scripts
`train_network.py` and `train_classifier.py` are its command lines. It is for networks of a few million parameters on a
CPU or one GPU, and does not mean to be a training library.
"""

from otprior_studies.training.classifier import train_classifier
from otprior_studies.training.export import save_network
from otprior_studies.training.loop import TrainingProgress, checkpoint_path, train_network
from otprior_studies.training.network import NetworkPlan, build_network
from otprior_studies.training.schedules import SCHEDULES, training_scheduler
from otprior_studies.training.splits import in_hash_order, select_classes, split_images

__all__ = [
    "SCHEDULES",
    "NetworkPlan",
    "TrainingProgress",
    "build_network",
    "checkpoint_path",
    "in_hash_order",
    "save_network",
    "select_classes",
    "split_images",
    "train_classifier",
    "train_network",
    "training_scheduler",
]
