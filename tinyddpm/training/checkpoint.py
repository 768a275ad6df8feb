"""A run in one file: parameters, averages, Adam's moments, step, time and the whole configuration.

A run draws its random numbers from (seed, step), so these two are the state of all its generators.
"""

import json
from pathlib import Path

import numpy as np

from tinyddpm import interop, nn, safetensors
from tinyddpm.backend import from_numpy, state, to_numpy
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.presets import Preset
from tinyddpm.training.optimizer import LossScale
from tinyddpm.training.trainer import Trainer

FORMAT = "tinyddpm checkpoint 1"
CHECKPOINT = "checkpoint.safetensors"             # its name in the folder of a run


def save_checkpoint(path, trainer):
    """Write the trainer's state to path; an older file there stays intact until the new one is complete."""
    metadata = {"format": FORMAT, "preset": trainer.preset.to_json(), "steps_done": json.dumps(trainer.steps_done),
                "seconds": json.dumps(trainer.seconds)}
    if trainer.loss_scale:
        scale = trainer.loss_scale
        metadata["loss_scale"] = json.dumps([float(scale.scale), float(scale.good), trainer.skipped])
    tensors = {f"{part}/{name}": view for part, flat in buffers(trainer).items()
               for name, view in trainer.model.views(to_numpy(flat)).items()}
    safetensors.write(path, tensors, metadata)


def load_checkpoint(path):
    """The Trainer that save_checkpoint wrote, ready for its next step.

    Raises ValueError for a file that is damaged, of another kind, or does not fit its own configuration.
    """
    tensors, metadata = safetensors.read(path)
    _require_format(path, metadata)
    trainer = Trainer(Preset.from_json(metadata["preset"]))
    for part, flat in buffers(trainer).items():
        _fill(path, trainer.model, flat, tensors, part)
    trainer.steps_done, trainer.seconds = json.loads(metadata["steps_done"]), json.loads(metadata["seconds"])
    if trainer.loss_scale and "loss_scale" in metadata:
        scale, good, trainer.skipped = json.loads(metadata["loss_scale"])
        trainer.loss_scale = LossScale(state.xp, scale, good)
    return trainer


def same_state(trainer):
    """Give every rank of the trainer's group the state of rank 0: the other ranks need no checkpoint."""
    numbers = np.array([trainer.steps_done, trainer.seconds])
    for a in (*buffers(trainer).values(), numbers):
        trainer.group.broadcast(a)
    trainer.steps_done, trainer.seconds = int(numbers[0]), float(numbers[1])
    if trainer.loss_scale:
        trainer.group.broadcast(trainer.loss_scale.scale)
        trainer.group.broadcast(trainer.loss_scale.good)


def load_model(path):
    """The model of a checkpoint with its averaged parameters, in evaluation mode, and the preset.

    path: a checkpoint, or a published model in the layout of diffusers, a .safetensors file or its folder
    Raises ValueError as load_checkpoint does.
    """
    if Path(path).is_dir():
        return _published(path)
    tensors, metadata = safetensors.read(path, checked=False)
    if metadata.get("format") in (None, "pt"):              # as PyTorch's libraries write them
        return _published(path)
    _require_format(path, metadata)
    preset = Preset.from_json(metadata["preset"])
    model = nn.build(preset.model).eval()
    _fill(path, model, model.flat_values, tensors, "ema")
    return model, preset


def _published(path):
    """A published model, with the paper's diffusion around it."""
    model = interop.load_diffusers(path)
    learned = {"variance": "learned", "loss": "hybrid"} if model.config.learned_variance else {}
    dataset = "cifar10" if (model.config.image_size, model.config.image_channels) == (32, 3) else "unknown"
    return model, Preset("published", dataset, model.config, DiffusionConfig(**learned))


def buffers(trainer):
    """The flat buffers that make up the state: name -> buffer."""
    optimizer = trainer.optimizer
    return {"model": trainer.model.flat_values, "ema": optimizer.ema, "adam_m": optimizer.m, "adam_v": optimizer.v}


def _require_format(path, metadata):
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version of tinyddpm (its format is "
                         f"{metadata.get('format')!r})")


def _fill(path, model, flat, tensors, part):
    """Copy the arrays part/name of a file into a flat buffer of the model."""
    for name, view in model.views(flat).items():
        a = tensors.get(f"{part}/{name}")
        if a is None or a.shape != view.shape or a.dtype != np.float32:
            raise ValueError(f"{path}: {part}/{name} is {'missing' if a is None else (a.dtype, a.shape)}; "
                             f"its configuration says float32 {view.shape}")
        view[...] = from_numpy(a)
