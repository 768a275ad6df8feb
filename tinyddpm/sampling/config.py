"""How images are drawn from a trained model."""

import math
from dataclasses import asdict, dataclass

from tinyddpm.sampling.samplers import SAMPLERS, SPACINGS


@dataclass(frozen=True)
class SamplingConfig:
    """The sampler with which a trained model is drawn from unless flags say otherwise. Defaults: the paper's."""

    sampler: str = "ddpm"
    steps: int | None = None            # None: the sampler's own number
    spacing: str | None = None          # of its times; None: the sampler's own
    guidance: float = 1.0               # w of classifier-free guidance, for models with classes
    clip: bool = True                   # keep the predicted x_0 within the data's range [-1, 1]

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; expected {', '.join(SAMPLERS)}")
        if self.spacing not in (None, *SPACINGS):
            raise ValueError(f"spacing is {self.spacing!r}; expected {', '.join(SPACINGS)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"the number of sampling steps is {self.steps}; expected at least 1")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; expected a finite number")

    def arguments(self, T, labels=None):
        """The arguments of `generate` for T times and these labels, without which there is no guidance."""
        return asdict(self) | {"steps": self.steps and min(self.steps, T), "labels": labels,
                               "guidance": 1.0 if labels is None else self.guidance}
