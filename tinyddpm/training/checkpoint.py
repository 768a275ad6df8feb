"""A run in one file: parameters, averages, Adam's moments, step, time and the whole configuration; or its model alone.

A run draws its random numbers from (seed, step), so these two are the state of all its generators.
"""

import json
from pathlib import Path

import numpy as np

from tinyddpm import files, interop, nn, safetensors
from tinyddpm.backend import from_numpy, state, to_numpy
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.presets import Preset
from tinyddpm.training.optimizer import LossScale
from tinyddpm.training.trainer import Trainer

FORMAT = "tinyddpm checkpoint 1"
PRETRAINED = {path.stem: path for path in sorted(Path(__file__).parent.parent.glob("pretrained/*.safetensors"))}
CHECKPOINT = "checkpoint.safetensors"             # its name in the folder of a run


def save_checkpoint(path, trainer):
    """Write the trainer's state to path; an older file there stays intact until the new one is complete."""
    metadata = _metadata(trainer)
    if trainer.loss_scale:
        scale = trainer.loss_scale
        metadata["loss_scale"] = json.dumps([float(scale.scale), float(scale.good), trainer.skipped])
    tensors = {f"{part}/{name}": view for part, flat in buffers(trainer).items()
               for name, view in trainer.model.views(to_numpy(flat)).items()}
    safetensors.write(path, tensors, metadata)


def save_model(path, trainer):
    """Write only what load_model reads, the averaged parameters, rounded to 16 bits: an eighth of a checkpoint."""
    averages = trainer.model.views(to_numpy(trainer.optimizer.ema))
    safetensors.write(path, {f"ema/{name}": view.astype(np.float16) for name, view in averages.items()},
                      _metadata(trainer))


def _metadata(trainer):
    return {"format": FORMAT, "preset": trainer.preset.to_json(), "steps_done": json.dumps(trainer.steps_done),
            "seconds": json.dumps(trainer.seconds), "data": json.dumps(trainer.fingerprint)}


def load_checkpoint(path, kind=Trainer):
    """The Trainer, or DiscreteTrainer, that save_checkpoint wrote, ready for its next step.

    Raises ValueError for a file that is damaged, of another kind, or does not fit its own configuration.
    """
    tensors, metadata = safetensors.read(path)
    with _parsing(path):
        if not any(name.startswith("adam_m/") for name in tensors):
            raise ValueError("it holds a model without the state of its training: start a new run from it, with --from")
        preset = _preset(tensors, metadata)
    _require_kind(path, preset, kind.config)
    with _parsing(path):
        trainer = kind(preset)
        for part, flat in buffers(trainer).items():
            _fill(trainer.model, flat, tensors, part)
        trainer.steps_done, trainer.seconds, trainer.fingerprint, loss_scale = (
            files.parse_json(metadata.get(name, "null")) for name in ("steps_done", "seconds", "data", "loss_scale"))
        if type(trainer.steps_done) is not int or not (0 <= trainer.steps_done < 2**63 and 0 <= trainer.seconds < 1e12):
            raise ValueError(f"steps_done is {trainer.steps_done!r}, seconds {trainer.seconds!r}; expected 0 or more")
        if trainer.loss_scale and loss_scale is not None:
            if not all(0 <= number < 2**63 for number in loss_scale):
                raise ValueError(f"loss_scale is {loss_scale!r}")
            scale, good, trainer.skipped = loss_scale
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


def load_model(path, config=DiffusionConfig):
    """The model of a checkpoint with its averaged parameters, in evaluation mode, and the preset.

    config: of its process, DiffusionConfig or DiscreteConfig
    path: a name in PRETRAINED, a checkpoint or a file of save_model, or a published model in the layout of diffusers, a
        .safetensors file or its folder
    Raises ValueError as load_checkpoint does.
    """
    path = PRETRAINED.get(str(path), path)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; with the package come the models {', '.join(PRETRAINED)}")
    if Path(path).is_dir() and (Path(path) / CHECKPOINT).exists():
        path = Path(path) / CHECKPOINT
    if Path(path).is_dir():
        return _published(path, config)
    tensors, metadata = safetensors.read(path, checked=False)
    if metadata.get("format") in (None, "pt"):              # as PyTorch's libraries write them
        return _published(path, config)
    with _parsing(path):
        preset = _preset(tensors, metadata)
    _require_kind(path, preset, config)
    with _parsing(path):
        model = nn.build(preset.model).eval()
        _fill(model, model.flat_values, tensors, "ema")
    return model, preset


def _published(path, config):
    """A published model, with the paper's diffusion around it."""
    model = interop.load_diffusers(path)
    learned = {"variance": "learned", "loss": "hybrid"} if model.config.learned_variance else {}
    dataset = "cifar10" if (model.config.image_size, model.config.image_channels) == (32, 3) else "unknown"
    preset = Preset("published", dataset, model.config, DiffusionConfig(**learned))
    _require_kind(path, preset, config)
    return model, preset


def buffers(trainer):
    """The flat buffers that make up the state: name -> buffer."""
    optimizer = trainer.optimizer
    return {"model": trainer.model.flat_values, "ema": optimizer.ema, "adam_m": optimizer.m, "adam_v": optimizer.v}


def _parsing(path):
    return files.parsing(path, "a checkpoint of this version of tinyddpm")


def _preset(tensors, metadata):
    """The configuration of a checkpoint. Raises an error for a file of another kind, or with too few parameters."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"its format is {metadata.get('format')!r}")
    preset = Preset.from_json(metadata["preset"])
    nn.require_size(preset.model, {name: a for name, a in tensors.items() if name.startswith("ema/")})
    return preset


def _require_kind(path, preset, config):
    """Raise ValueError for a model of the other kind of process."""
    if type(preset.diffusion) is not config:
        raise ValueError(f"{path}: its process adds noise to numbers; expected one of train_masks.py"
                         if config is DiscreteConfig else
                         f"{path}: its process is that of train_masks.py, of values instead of numbers")


def _fill(model, flat, tensors, part):
    """Copy the arrays part/name of a file into a flat buffer of the model. Averages may have 16 bits."""
    types = (np.float32, np.float16) if part == "ema" else (np.float32,)
    for name, view in model.views(flat).items():
        a = tensors.get(f"{part}/{name}")
        if a is None or a.shape != view.shape or a.dtype not in types:
            raise ValueError(f"{part}/{name} is {'missing' if a is None else (a.dtype, a.shape)}; its configuration "
                             f"says float32 {view.shape}")
        view[...] = from_numpy(a.astype(np.float32))
