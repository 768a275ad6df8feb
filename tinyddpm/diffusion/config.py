"""The choices that define a diffusion model, apart from its network."""

from dataclasses import dataclass

from tinyddpm.diffusion.objective import LOSSES
from tinyddpm.diffusion.prediction import PREDICTIONS
from tinyddpm.diffusion.schedule import SCHEDULES

CHOICES = {"schedule": SCHEDULES, "prediction": PREDICTIONS, "variance": ("large", "small", "learned"), "loss": LOSSES}


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, the prediction, the variance of the reverse process, and the loss. Defaults: the paper's."""

    T: int = 1000
    schedule: str = "linear"
    beta_1: float = 1e-4
    beta_T: float = 0.02
    shares: tuple[int, ...] = (1,)      # of the learned schedule's steps, see learned.py
    prediction: str = "eps"             # mu stands for mu_tilde; u: eps - x_0
    variance: str = "large"             # sigma_t^2 of p: large (beta_t), small (beta_tilde_t), learned
    loss: str = "simple"                # tilted, logit-normal, capped: other weights; L; hybrid: learned variance

    def __post_init__(self):
        if not 2 <= self.T <= 10**6:
            raise ValueError(f"T is {self.T}; expected 2 to 1,000,000")
        if not self.shares or min(self.shares) < 1:
            raise ValueError(f"shares is {self.shares}; expected whole numbers of at least 1")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {', '.join(choices)}")
        if self.loss not in ("L", "hybrid") and self.variance == "learned":
            raise ValueError(f"{self.loss} does not train the variance: a learned variance needs --loss hybrid or L")
        if self.loss == "hybrid" and self.variance != "learned":
            raise ValueError(f"the hybrid loss needs a learned variance; the variance is {self.variance}")
        self.make_schedule()

    @property
    def learned_variance(self):
        return self.variance == "learned"

    def make_schedule(self):
        """The Schedule with its tables. Raises ValueError unless every beta is between 0 and 1."""
        return SCHEDULES[self.schedule](self)
