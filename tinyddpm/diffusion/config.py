"""The choices that define a diffusion model, apart from its network."""

from dataclasses import dataclass

from tinyddpm.diffusion import schedule
from tinyddpm.diffusion.objective import PREDICTIONS


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, what the network predicts, and the variance of the reverse process. The paper's by default."""

    T: int = 1000
    schedule: str = "linear"            # linear, quadratic, constant, cosine
    beta_1: float = 1e-4
    beta_T: float = 0.02
    prediction: str = "eps"             # eps, x0, v
    variance: str = "large"             # sigma_t^2 of the reverse process: large (beta_t) or small (beta_tilde_t)

    def __post_init__(self):
        if self.T < 1:
            raise ValueError(f"T is {self.T}; expected at least 1")
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {self.prediction!r}; expected {', '.join(PREDICTIONS)}")
        self.make_schedule().variance(self.variance)

    def make_schedule(self):
        """The Schedule with its tables."""
        if self.schedule in ("linear", "quadratic"):
            return getattr(schedule, self.schedule)(self.T, self.beta_1, self.beta_T)
        if self.schedule == "constant":
            return schedule.constant(self.T, self.beta_T)
        if self.schedule == "cosine":
            return schedule.cosine(self.T)
        raise ValueError(f"schedule is {self.schedule!r}; expected linear, quadratic, constant or cosine")
