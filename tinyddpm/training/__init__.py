"""Training: the step, the optimizer, the run around them, and its checkpoints."""

from tinyddpm.training.checkpoint import load_checkpoint, load_model, save_checkpoint
from tinyddpm.training.trainer import Trainer
