"""Distillation: a student learns to draw in a few steps what a teacher draws in many.

A step of training takes x_t from an image and noise, and asks the network for these. Distillation takes the same x_t,
at a few times only, and asks for another x_0, which a teacher finds; the noise that belongs to it follows from x_t. So
all predictions and losses serve as they are: a Trainer's `lesson` is all that changes.
"""

from dataclasses import replace

import numpy as np

from tinyddpm import nn
from tinyddpm.backend import from_numpy, generator
from tinyddpm.diffusion.objective import draw_times
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.diffusion.process import eps_from_x0, q_sample
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.config import SamplingConfig
from tinyddpm.sampling.generate import BATCH
from tinyddpm.sampling.ode import straightness
from tinyddpm.sampling.samplers import choose_times
from tinyddpm.sampling.solvers import dpmpp_2m, predict, transfer
from tinyddpm.sampling.steps import last

GRID = 16           # times along which a model becomes consistent, at least
PAIRS = 8192        # of noise and image, for reflow
SOLVER_STEPS = 15   # of DPM-Solver++, which makes them


def student_preset(preset, steps, method):
    """The preset of a student of `steps` steps: it is drawn from with that many, and needs no guidance any more."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected {', '.join(METHODS)}")
    sampling = SamplingConfig(METHODS[method].sampler, steps, "strides", clip=preset.sampling.clip)
    return replace(preset, sampling=sampling, training=replace(preset.training, label_dropout=0.0))


class Lesson:
    """What a student of `steps` steps is asked for, in place of an image and its noise: see Trainer.lesson.

    teacher: a model in evaluation mode, and its preset, by which it is guided; student: the Trainer
    watch(done, total) is called while what is needed beforehand is made
    """

    sampler = "ddim"        # of the student

    def __init__(self, teacher, preset, student, steps, watch=None):
        self.teacher, self.preset, self.student = teacher, preset, student
        self.s = preset.diffusion.make_schedule()
        self.times = np.array([0, *choose_times(self.s, steps, "strides")[::-1]])

    def __call__(self, choices, x0, eps, inputs):
        """x0, t, eps for the student, from images, their noise, the other inputs and a generator of small decisions."""
        s, number = self.s, choices.integers(1, len(self.times), len(x0))
        t, after = self.times[number], self.times[number - 1]
        xt = q_sample(s, x0, t, eps)
        found = self.target(xt, x0, eps, t, after, inputs.get("labels"))
        return found, t, eps_from_x0(s, found, xt, t)

    def process(self, labels):
        """The teacher's, with its guidance."""
        how = self.preset.sampling.arguments(self.s.T, labels)
        return reverse_process(self.teacher, self.preset.diffusion, labels, how["guidance"], clip=how["clip"])


class Progressive(Lesson):
    """Two of the teacher's DDIM steps in one (Salimans and Ho 2022)."""

    def target(self, xt, x0, eps, t, after, labels):
        """The x_0 with which one step from t leads where two of the teacher's lead."""
        s, p = self.s, self.process(labels)
        middle = (t + after) / 2
        _, eps = predict(p, s, xt, t)
        _, eps = predict(p, s, x := transfer(s, xt, eps, t, middle), middle)
        end = transfer(s, x, eps, middle, after)
        a, b = s.alpha_bar[t], s.alpha_bar[after]
        kept = np.sqrt((1 - b) / (1 - a))
        return (end - per_sample(kept, xt) * xt) / per_sample(np.sqrt(b) - kept * np.sqrt(a), xt)


class Consistency(Lesson):
    """The x_0 that the student itself finds a step further on its teacher's path (Song et al. 2023).

    After the last step it is that path's end, so that in time it is the end from everywhere on the path.
    """

    sampler = "consistency"

    def __init__(self, teacher, preset, student, steps, watch=None):
        grid = steps * -(-GRID // steps)
        super().__init__(teacher, preset, student, grid if grid <= preset.diffusion.T else steps)
        self.fixed = nn.build(student.preset.model).eval()      # the student, in evaluation mode, without gradients

    def target(self, xt, x0, eps, t, after, labels):
        x, end = self.further(xt, x0, eps, t, after, labels)
        self.fixed.flat_values[...] = self.student.model.flat_values
        p = reverse_process(self.fixed, self.preset.diffusion, labels, clip=self.preset.sampling.clip)
        _, _, found = p(x, np.maximum(after, 1))
        ended = from_numpy(after == 0).reshape(-1, *[1] * (x.ndim - 1))
        return ended * end + ~ended * found

    def further(self, xt, x0, eps, t, after, labels):
        """x after a step from t, and the end of the path if that was the last."""
        end, eps = predict(self.process(labels), self.s, xt, t)
        return transfer(self.s, xt, eps, t, after), end


class ConsistencyTraining(Consistency):
    """The same without a teacher: the step is known from the image and its noise."""

    def further(self, xt, x0, eps, t, after, labels):
        return q_sample(self.s, x0, after, eps), x0


class Reflow(Lesson):
    """Noise and the image to which the teacher's flow leads from it (rectified flow, Liu et al. 2023).

    In place of any noise for any image: so paths cross less, and are straighter.
    """

    def __init__(self, teacher, preset, student, steps, watch=None):
        super().__init__(teacher, preset, student, steps)
        c, times = preset.model, choose_times(self.s, min(SOLVER_STEPS, self.s.T), "logsnr")
        self.labels = None if preset.labels is None else np.arange(PAIRS) % c.num_classes
        self.eps = generator(preset.training.seed, "pairs").standard_normal((PAIRS, *c.shape), dtype=np.float32)
        self.x0 = self.eps.copy()
        for start in range(0, PAIRS, BATCH):
            batch = slice(start, start + BATCH)
            p = self.process(None if self.labels is None else self.labels[batch])
            self.x0[batch] = last(dpmpp_2m(p, self.s, self.eps[batch], None, times))
            if watch:
                watch(min(start + BATCH, PAIRS), PAIRS)

    def __call__(self, choices, x0, eps, inputs):
        chosen = choices.integers(PAIRS, size=len(x0))
        if self.labels is not None:
            inputs["labels"] = self.labels[chosen]
        t, chosen = draw_times(self.s, self.preset.diffusion.loss, len(x0), choices), from_numpy(chosen)
        return self.x0[chosen], t, self.eps[chosen]

    def straightness(self):
        """That of the teacher's paths, and of the student's (sampling/ode.py), from new noise."""
        times, c = choose_times(self.s, min(50, self.s.T), "strides"), self.preset
        x = generator(c.training.seed, "straight").standard_normal((BATCH, *c.model.shape), dtype=np.float32)
        labels = None if self.labels is None else self.labels[:BATCH]
        with self.student.averaged() as model:
            student = reverse_process(model, self.preset.diffusion, labels, clip=self.preset.sampling.clip)
            return [straightness(p, self.s, x, times) for p in (self.process(labels), student)]


METHODS = {"progressive": Progressive, "consistency": Consistency, "consistency-training": ConsistencyTraining,
           "reflow": Reflow}
