"""Distillation: a student learns to draw in a few steps what a teacher draws in many.

A step of training takes x_t from an image and noise, and asks the network for these. Distillation takes the same x_t,
at a few times only, and asks for another x_0, which a teacher finds; the noise that belongs to it follows from x_t. So
all predictions and losses serve as they are: a Trainer's `lesson` is all that changes.
"""

from dataclasses import replace

import numpy as np

from tinyddpm import nn
from tinyddpm.backend import from_numpy
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.diffusion.process import eps_from_x0, q_sample
from tinyddpm.diffusion.schedule import per_sample
from tinyddpm.sampling.config import SamplingConfig
from tinyddpm.sampling.samplers import choose_times
from tinyddpm.sampling.solvers import predict, transfer

METHODS = "progressive", "consistency", "consistency-training"


def student_preset(preset, steps, method):
    """The preset of a student of `steps` steps: it is drawn from with that many, and needs no guidance any more."""
    sampler = "ddim" if method == "progressive" else "consistency"
    return replace(preset, sampling=SamplingConfig(sampler, steps, "strides", clip=preset.sampling.clip),
                   training=replace(preset.training, label_dropout=0.0))


class Lesson:
    """What a student of `steps` steps is asked for, in place of an image and its noise: see Trainer.lesson.

    teacher: a model in evaluation mode, and its preset, by which it is guided; student: the Trainer
    progressive: two of the teacher's DDIM steps in one (Salimans and Ho 2022)
    consistency: the x_0 that the student's average finds after one of them (Song et al. 2023), so that it becomes the
        same all along a path
    consistency-training: the same, with the step known from the image and its noise; the teacher has no part in it
    """

    def __init__(self, teacher, preset, student, steps, method):
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; expected {', '.join(METHODS)}")
        self.teacher, self.preset, self.student, self.method = teacher, preset, student, method
        self.s = preset.diffusion.make_schedule()
        self.times = np.array([0, *choose_times(self.s, steps, "strides")[::-1]])
        self.average = nn.build(student.preset.model).eval()

    def __call__(self, choices, x0, eps, inputs):
        """x0, t, eps for the student, from images, their noise, the other inputs and a generator of small decisions."""
        s, number = self.s, choices.integers(1, len(self.times), len(x0))
        t, after = self.times[number], self.times[number - 1]
        xt = q_sample(s, x0, t, eps)
        if self.method == "progressive":
            found = self._two_steps(xt, t, after, inputs.get("labels"))
        else:
            found = self._further_on(xt, x0, eps, t, after, inputs.get("labels"))
        return found, t, eps_from_x0(s, found, xt, t)

    def _two_steps(self, xt, t, after, labels):
        """The x_0 with which one step from t leads where two of the teacher's lead."""
        s, p = self.s, self._process(self.teacher, labels)
        middle = (t + after) / 2
        _, eps = predict(p, s, xt, t)
        _, eps = predict(p, s, x := transfer(s, xt, eps, t, middle), middle)
        end = transfer(s, x, eps, middle, after)
        a, b = s.alpha_bar[t], s.alpha_bar[after]
        kept = np.sqrt((1 - b) / (1 - a))
        return (end - per_sample(kept, xt) * xt) / per_sample(np.sqrt(b) - kept * np.sqrt(a), xt)

    def _further_on(self, xt, x0, eps, t, after, labels):
        """The x_0 that the student's average finds a step further on; after the last one, the data themselves."""
        s = self.s
        if self.method == "consistency":
            teacher_x0, teacher_eps = predict(self._process(self.teacher, labels), s, xt, t)
            x, last = transfer(s, xt, teacher_eps, t, after), teacher_x0
        else:
            x, last = q_sample(s, x0, after, eps), x0
        self.average.flat_values[...] = self.student.optimizer.ema
        p = reverse_process(self.average, self.preset.diffusion, labels, clip=self.preset.sampling.clip)
        _, _, found = p(x, np.maximum(after, 1))
        ended = from_numpy(after == 0).reshape(-1, *[1] * (x.ndim - 1))
        return ended * last + ~ended * found

    def _process(self, model, labels):
        how = self.preset.sampling.arguments(self.s.T, labels)
        return reverse_process(model, self.preset.diffusion, labels, how["guidance"], clip=how["clip"])
