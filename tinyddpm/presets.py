"""Complete configurations of a run, by name. A command-line flag overrides one field (see cli.py)."""

import json
import math
import types
from dataclasses import asdict, dataclass, field, fields, replace

from tinyddpm import files, nn
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.diffusion.discrete import DiscreteConfig
from tinyddpm.nn import UNetConfig
from tinyddpm.sampling.config import SamplingConfig


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of the optimizer and of a run. The defaults are the paper's for CIFAR10."""

    steps: int = 800_000
    minutes: float | None = None        # stop after this time instead of after `steps`
    batch_size: int = 128
    lr: float = 2e-4
    lr_final: float = 2e-4              # the learning rate falls from lr to this along a cosine
    warmup: int = 5000                  # steps over which it first rises from 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    clip_norm: float = 1.0
    ema_decay: float = 0.9999
    flip: bool = True                   # mirror each image with probability 1/2
    label_dropout: float = 0.1          # with classes: how often the label is hidden, for guidance and --label none
    save_every: int = 5000              # steps between checkpoints
    sample_every: int = 5000            # steps between sample grids; 0 for none
    seed: int = 0

    def __post_init__(self):
        lowest = {"steps": 1, "batch_size": 1, "warmup": 0, "save_every": 1, "sample_every": 0, "seed": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}")
        for name in ("lr", "adam_eps", "clip_norm", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf and (name, value) != ("clip_norm", math.inf):
                raise ValueError(f"{name} is {value}; expected a positive and finite number")
        for name in ("adam_beta1", "adam_beta2", "ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 <= {name} < 1")
        if not 0 <= self.lr_final <= self.lr:
            raise ValueError(f"lr_final is {self.lr_final}; expected 0 <= lr_final <= lr = {self.lr}")


@dataclass(frozen=True)
class Preset:
    """Everything that defines a run. It is stored in every checkpoint, so that sampling needs no flags for it.

    model: the configuration of one of nn.NETWORKS. All of them have num_classes, learned_variance, least_parameters
        and shape, that of a sample as the network sees it. num_classes not None: the run learns the labels of its
        data, if they have any
    diffusion: a DiffusionConfig, or a DiscreteConfig
    classes: the names of the model's classes, once the data are known
    """

    name: str
    dataset: str
    model: object = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig | DiscreteConfig = field(default_factory=DiffusionConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    classes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.classes and len(self.classes) != self.model.num_classes:
            raise ValueError(f"num_classes is {self.model.num_classes}; the classes are {', '.join(self.classes)}")
        if self.sampling.guidance != 1 and self.model.num_classes is None:
            raise ValueError(f"guidance is {self.sampling.guidance}, which needs a model with classes")
        if isinstance(self.diffusion, DiscreteConfig):
            states, axes = self.diffusion.make_schedule().states, 2 if self.diffusion.alphabet else 3
            if self.model.shape[-1] != states or len(self.model.shape) != axes:
                raise ValueError(f"the network is made for {self.model.shape}; expected {states} channels, of a text "
                                 "or of images as the alphabet says")
        if self.model.learned_variance != self.diffusion.learned_variance:
            raise ValueError(f"the diffusion has learned_variance = {self.diffusion.learned_variance}, the model "
                             f"{self.model.learned_variance}")

    @property
    def labels(self):
        """All labels of the model, a list; None for a model without classes."""
        return None if self.model.num_classes is None else list(range(self.model.num_classes))

    def override(self, **values):
        """A copy with fields replaced, in whichever part they belong: preset.override(lr=1e-3, base_channels=64).

        sampling_steps stands for the field steps of `sampling`. A model without classes has no guidance either.
        """
        given = dict(values)
        if values.get("num_classes", 1) is None:
            values = {"guidance": 1.0, "classes": ()} | values
        changes = {name: values.pop(name) for name in ("name", "dataset", "classes") if name in values}
        for part in ("model", "diffusion", "training", "sampling"):
            config = getattr(self, part)
            mine = {name: f"sampling_{name}" if (part, name) == ("sampling", "steps") else name
                    for name in (f.name for f in fields(config))}
            changes[part] = replace(config, **{name: values.pop(key) for name, key in mine.items() if key in values})
        if values:
            raise ValueError(f"no configuration has a field {', '.join(values)}")
        possible = getattr(changes["model"], "resolutions", ())
        if not set(attention := given.get("attention_resolutions", ())) <= set(possible):
            raise ValueError(f"attention_resolutions is {attention}; the levels of the U-Net have {possible}")
        if changes["model"].learned_variance != changes["diffusion"].learned_variance:
            changes["model"] = replace(changes["model"], learned_variance=changes["diffusion"].learned_variance)
        return replace(self, **changes)

    def to_json(self):
        return json.dumps(asdict(self) | {"network": nn.name_of(self.model)})

    @classmethod
    def from_json(cls, text):
        """The preset in a checkpoint. Raises ValueError for any other text."""
        try:
            d = files.parse_json(text)
            config, _ = nn.NETWORKS[d.get("network", "unet")]           # older checkpoints do not name it
            process = DiscreteConfig if "kind" in d["diffusion"] else DiffusionConfig
            parts = (("model", config), ("diffusion", process), ("training", TrainingConfig),
                     ("sampling", SamplingConfig))
            d = {"sampling": {}, "classes": []} | d                         # which older checkpoints lack
            return cls(_typed("name", d["name"], str), _typed("dataset", d["dataset"], str),
                       *(kind(**{f.name: _typed(f.name, d[part].pop(f.name), f.type)
                                 for f in fields(kind) if f.name in d[part]}, **d[part]) for part, kind in parts),
                       _typed("classes", d["classes"], tuple[str, ...]))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a configuration of this version of tinyddpm: {error}") from None


def _typed(name, value, kind):
    """A value out of JSON for a field of this type. Raises ValueError for one of another type."""
    if isinstance(kind, types.UnionType):                               # int | None, float | None
        return None if value is None else _typed(name, value, kind.__args__[0])
    if isinstance(value, list) and kind in (tuple[int, ...], tuple[str, ...]):
        return tuple(_typed(name, n, kind.__args__[0]) for n in value)
    if type(value) is not kind and (type(value), kind) != (int, float) or kind is int and abs(value) >= 2**63:
        raise ValueError(f"{name} is {value!r}; expected {getattr(kind, '__name__', kind)}")
    return kind(value)


LARGE = UNetConfig(image_size=256, channel_multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
FOR_LARGE = TrainingConfig(steps=1_200_000, batch_size=64, lr=2e-5, lr_final=2e-5)

PRESETS = {preset.name: preset for preset in (
    # Found by trials of a few minutes on two cores. Predicting x0 with the cosine schedule gave readable digits in
    # half the time of eps with the linear one; 2x2 patches halve the cost of a step; attention beyond the middle,
    # a batch of 32, or twice the learning rate changed little.
    Preset("mnist", "digits",
           UNetConfig(image_size=28, image_channels=1, base_channels=32, channel_multipliers=(1, 2), blocks_per_level=1,
                      attention_resolutions=(), dropout=0.0, groups=8, num_classes=10, patch_size=2),
           DiffusionConfig(schedule="cosine", prediction="x0", loss="tilted"),
           TrainingConfig(steps=1300, batch_size=64, lr=3e-3, lr_final=1e-4, warmup=100, adam_beta2=0.99,
                          ema_decay=0.995, flip=False, save_every=250, sample_every=500),
           SamplingConfig("ddim", 50, guidance=1.4)),
    Preset("cifar10", "cifar10"),
    # For two cores and a night: 2x2 patches leave a quarter of the positions. Small batches, v along the cosine
    # schedule and the capped loss were the best in trials of twelve minutes.
    Preset("cifar10-small", "cifar10",
           UNetConfig(base_channels=64, channel_multipliers=(1, 2, 2), blocks_per_level=1, attention_resolutions=(8,),
                      dropout=0.0, num_classes=10, patch_size=2),
           DiffusionConfig(schedule="cosine", prediction="v", loss="capped"),
           TrainingConfig(steps=60_000, batch_size=32, lr=1e-3, lr_final=5e-5, warmup=500, ema_decay=0.9995,
                          save_every=500, sample_every=2500),
           SamplingConfig("ddim", 50, guidance=3.0)),
    # The paper's 256x256 models, for folders of images (--dataset FOLDER). The paper flips all but LSUN bedrooms.
    Preset("celebahq-256", "celebahq", LARGE, training=replace(FOR_LARGE, steps=500_000)),
    Preset("lsun-256", "lsun", LARGE, training=FOR_LARGE),
    Preset("lsun-256-large", "lsun", replace(LARGE, base_channels=192),
           training=replace(FOR_LARGE, steps=1_150_000, flip=False)),
)}


def get(name):
    """The preset of that name. Raises ValueError, listing the names, for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
