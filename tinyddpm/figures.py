"""The paper's figures, each drawn by a method of Figure; examples/figures.py is the program for them."""

import itertools
import math
from dataclasses import replace

import numpy as np

from tinyddpm import data, evaluation, plots
from tinyddpm.backend import generator, to_numpy
from tinyddpm.data import scaled
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.progress import Progress
from tinyddpm.sampling import latents, ode
from tinyddpm.sampling.generate import BATCH, by_class, generate
from tinyddpm.sampling.samplers import SAMPLERS

COLUMNS, FILM = 9, 16   # of the figures; images of a film
BUDGETS, TOLERANCES = (5, 8, 10, 15, 20, 30, 50, 100), (1.0, 0.1, 0.01, 1e-3)       # for the samplers
RATE_IMAGES = 32        # over which Figure 5 takes the mean


class Figure:
    """A figure of a trained model and its preset: each public method draws one and writes it to the file `out`.

    rows, count: their number, and that of samples, for the figures that let you choose
    seed: of samples, noise and chosen images
    dataset: a name or a folder (default: the preset's), whose files are in data_dir (default: downloaded)
    inception: a file with the weights of Inception-v3, for features (default: a small classifier's)
    """

    def __init__(self, model, preset, out, rows=6, count=500, seed=0, dataset=None, data_dir=None,
                 inception=None):
        self.model, self.preset, self.out = model, preset, out
        self.rows, self.count, self.seed = rows, count, seed
        self.dataset, self.data_dir, self.inception = dataset or preset.dataset, data_dir, inception
        self.progress, self.s = Progress(), preset.diffusion.make_schedule()
        self.rng = generator(seed, "figure")

    def samples(self):
        """Figures 11 and 13: samples; of a model with classes, a column for each"""
        images, columns = self._generate(self.rows * (self.preset.model.num_classes or self.rows))
        plots.save_png(self.out, plots.grid(images, columns))

    def film(self):
        """the film of a reverse process"""
        _, _, columns = by_class(self.preset.labels, FILM)
        film = plots.Film(columns)
        self._generate(FILM, film.add)
        film.save(self.out)

    def progressive(self):
        """Figures 6, 10 and 14: the estimate of x_0 as t falls, a row for each sample"""
        labels = self.preset.labels and np.resize(self.preset.labels, self.rows)
        p = self._watched(self.s.T, labels)
        self._save(latents.progressive(p, self.s, self._noise(self.rows), self.rng, COLUMNS))

    def shared(self):
        """Figure 7: a row for t = T, 3T/4, T/2, T/4: x_t, then samples that share it"""
        times = [max(1, self.s.T * i // 4) for i in (4, 3, 2, 1)]
        p = self._watched(self.s.T + sum(times))
        self._save(latents.shared(p, self.s, self._noise(1), self.rng, times, COLUMNS))

    def interpolation(self):
        """Figure 8: from one image to another by way of x_t at t = T/2"""
        t, rows = self.s.T // 2, self.rows
        a, b = np.split(self._images(2 * rows), 2)
        self._save(latents.interpolate(self._watched(t * rows), self.s, scaled(a), scaled(b), t, self.rng, COLUMNS))

    def coarse_to_fine(self):
        """Figure 9: from one image to another by way of x_t, from t = T (top) to t = 0 (the pixels themselves)"""
        times, (a, b) = [self.s.T * i // 8 for i in range(8, -1, -1)], np.split(scaled(self._images(2)), 2)
        p = self._watched(sum(times))
        self._save([row for t in times for row in latents.interpolate(p, self.s, a, b, t, self.rng, COLUMNS)])

    def sphere(self):
        """from one image to another by way of latents x_T of the probability-flow ODE, on the great circle"""
        a, b = np.split(scaled(self._images(2 * self.rows)), 2)
        p = reverse_process(self.model, self.preset.diffusion, clip=False)

        def watched(xt, t):
            self.progress.count("evaluation", next(number), None)
            return p(xt, t)

        number = itertools.count(1)
        self._save(ode.interpolate(watched, self.s, a, b, COLUMNS, tolerance=1e-3))

    def nearest(self):
        """Figures 12 and 15: a sample (left), and the training images nearest to it in pixels and in features"""
        extractor, _ = evaluation.extractor(self.model.config, self.inception)
        images, samples = self._images(None), self._generate(self.rows)[0][:self.rows]
        found = [evaluation.nearest(measure, images, samples, COLUMNS // 2) for measure in
                 (evaluation.pixels, lambda images: extractor.measure(images)[0])]
        self._save([np.concatenate([sample[None], *(images[indices[row]] for indices in found)])
                    for row, sample in enumerate(samples)])

    def schedule(self):
        """beta, alpha_bar and the signal-to-noise ratio over t"""
        plots.schedule(self.out, self.s)

    def rate_distortion(self):
        """Figure 5: rate and distortion over the reverse process; of a model with classes, given the labels"""
        dataset = data.load(self.dataset, self.preset.model, "train", self.data_dir)
        dataset.require_classes(self.preset.classes, self.dataset)
        some = dataset.some(RATE_IMAGES, self.seed)
        found = evaluation.bound(self.model, self.preset, some.images, some.labels if self.preset.labels else None,
                                 min(100, self.s.T - 1), self.seed)
        plots.rate_distortion(self.out, *found.rate_distortion())

    def samplers(self):
        """FID over the evaluations of the network, for every sampler, printed and drawn; takes an hour"""
        extractor, naming = evaluation.extractor(self.model.config, self.inception)
        real, _ = evaluation.measure(extractor, self._images(None), "training images")
        labels = self.preset.labels and np.resize(self.preset.labels, self.count)
        how, found = self.preset.sampling.arguments(self.s.T, labels), {}
        print(f"{naming.format('FID')} of {self.count:,} samples\n  {'':18}{'evaluations':>12}{'FID':>9}")
        for name, sampler in SAMPLERS.items():
            if name == "consistency":               # for models that were made for it
                continue
            found[sampler.title] = []
            for options in _choices(sampler, self.s.T):
                evaluations = []
                images = generate(self.model, self.preset.diffusion, self.count, self.seed,
                                  watch=lambda step, number, total: evaluations.append(number),
                                  **how | {"sampler": name, "steps": None, "spacing": None} | options)
                each = evaluations[-1] / math.ceil(self.count / BATCH)
                value = evaluation.fid(evaluation.measure(extractor, plots.to_uint8(images), "samples")[0], real)
                found[sampler.title].append((each, value))
                print(f"  {sampler.title:18}{each:12.0f}{value:9.3f}", flush=True)
        plots.samplers(self.out, found, naming.format("FID"))

    def _generate(self, count, watch=lambda step: None):
        """uint8 samples, and the columns of their grid; watch(step) is called with each step."""
        def show(step, number, total):
            self.progress.count("sampling, evaluation", number, total)
            watch(step)

        count, labels, columns = by_class(self.preset.labels, count)
        how = self.preset.sampling.arguments(self.s.T, labels)
        return plots.to_uint8(generate(self.model, self.preset.diffusion, count, self.seed, watch=show, **how)), columns

    def _watched(self, total, labels=None):
        """The reverse process for these labels, with its evaluations counted."""
        number = iter(range(1, total + 1))
        how = self.preset.sampling.arguments(self.s.T, labels)
        reverse = reverse_process(self.model, self.preset.diffusion, labels, how["guidance"], clip=how["clip"])

        def p(xt, t):
            self.progress.count("step", next(number), total)
            return reverse(xt, t)

        return p

    def _noise(self, count):
        c = self.preset.model
        return self.rng.standard_normal((count, *c.shape), dtype=np.float32)

    def _images(self, count):
        """`count` training images, uint8; for None all of them, in the order of the data set."""
        model = replace(self.preset.model, num_classes=None)            # labels do not matter here
        dataset = data.load(self.dataset, model, "train", self.data_dir)
        return dataset.images if count is None else dataset.some(count, self.seed).images

    def _save(self, rows):
        """Write images (rows, columns, H, W, C), in [-1, 1] or uint8, as a grid."""
        rows = np.stack([to_numpy(row) for row in rows])
        rows = rows if rows.dtype == np.uint8 else plots.to_uint8(rows)
        plots.save_png(self.out, plots.grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1]))


def _choices(sampler, T):
    """The options with which a sampler is drawn from: those for the budgets, if it can be given a number of steps."""
    if sampler.steps:
        return [{"steps": max(K for K in range(1, budget + 1) if sampler.evaluations(K) <= budget)}
                for budget in BUDGETS if budget <= T]
    return [{}] if sampler.evaluations else [{"tolerance": tolerance} for tolerance in TOLERANCES]


FIGURES = {f.__name__.replace("_", "-"): f for f in (
    Figure.samples, Figure.film, Figure.progressive, Figure.shared, Figure.interpolation, Figure.coarse_to_fine,
    Figure.sphere, Figure.nearest, Figure.schedule, Figure.rate_distortion, Figure.samplers)}
