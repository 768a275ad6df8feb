"""The paper's figures, each drawn by a method of Figure; examples/figures.py is their program."""

import numpy as np

from tinyddpm import data, metrics, plots
from tinyddpm.backend import from_numpy, generator, to_numpy
from tinyddpm.diffusion import latents, likelihood, sample
from tinyddpm.diffusion.objective import reverse_process
from tinyddpm.progress import Progress
from tinyddpm.training import load_model

COLUMNS = 9
RATE_IMAGES = 32        # of which Figure 5 shows the mean


class Figure:
    """A figure of the model of a checkpoint: each public method draws one and writes it to `out`.

    args: checkpoint, seed, rows, dataset, data_dir and inception, as the flags of the program have them
    """

    def __init__(self, args, out):
        self.args, self.out, self.progress = args, out, Progress()
        self.model, self.preset = load_model(args.checkpoint)
        self.s = self.preset.diffusion.make_schedule()
        self.p = reverse_process(self.model, self.s, self.preset.diffusion.prediction, self.preset.diffusion.variance)
        self.rng = generator(args.seed, "figure")

    def samples(self):
        """Figures 11 and 13: samples by Algorithm 2"""
        plots.save_png(self.out, plots.grid(self._generate(self.args.rows**2)))

    def film(self):
        """the film of a reverse process"""
        film = plots.Film()
        self._generate(16, film.add)
        film.save(self.out)

    def progressive(self):
        """Figures 6, 10 and 14: the estimate of x_0 as t falls, a row for each sample"""
        self._save(latents.progressive(self._watched(self.s.T), self.s, self._noise(self.args.rows), self.rng, COLUMNS))

    def shared(self):
        """Figure 7: a row for t = T, 3T/4, T/2, T/4: x_t, then samples that share it"""
        times = [max(1, self.s.T * i // 4) for i in (4, 3, 2, 1)]
        self._save(latents.shared(self._watched(self.s.T + sum(times)), self.s, self._noise(1), self.rng, times, COLUMNS))

    def interpolation(self):
        """Figure 8: from one image to another by way of x_t at t = T/2"""
        t, rows = self.s.T // 2, self.args.rows
        a, b = np.split(self._images(2 * rows), 2)
        self._save(latents.interpolate(self._watched(t * rows), self.s, scaled(a), scaled(b), t, self.rng, COLUMNS))

    def coarse_to_fine(self):
        """Figure 9: from one image to another by way of x_t, from t = T (top) to t = 0 (the pixels themselves)"""
        times, (a, b) = [self.s.T * i // 8 for i in range(8, -1, -1)], np.split(scaled(self._images(2)), 2)
        p = self._watched(sum(times))
        self._save([row for t in times for row in latents.interpolate(p, self.s, a, b, t, self.rng, COLUMNS)])

    def nearest(self):
        """Figures 12 and 15: a sample (left), the training images nearest to it in pixels, and those nearest in features"""
        extractor, _ = metrics.extractor(self.model.config, self.args.inception)
        images, samples = self._images(None), self._generate(self.args.rows)
        found = [metrics.nearest(measure, images, samples, COLUMNS // 2) for measure in
                 (metrics.pixels, lambda images: extractor.measure(images)[0])]
        self._save([np.concatenate([sample[None], *(images[indices[row]] for indices in found)])
                    for row, sample in enumerate(samples)])

    def schedule(self):
        """beta, alpha_bar and the signal-to-noise ratio over t"""
        plots.schedule(self.out, self.s)

    def rate_distortion(self):
        """Figure 5: rate and distortion over the reverse process"""
        bound = likelihood.evaluate(self.p, self.s, self._images(RATE_IMAGES), min(100, self.s.T - 1), self.args.seed,
                                    watch=lambda number, total: self.progress.count("batch and time", number, total))
        plots.rate_distortion(self.out, *bound.rate_distortion())

    def _generate(self, count, watch=lambda step: None):
        """uint8 samples by Algorithm 2; watch(step) sees each step."""
        def show(step, number, total):
            self.progress.count("sampling, step", number, total)
            watch(step)

        return plots.to_uint8(sample.generate(self.model, self.preset.diffusion, count, self.args.seed, watch=show))

    def _watched(self, total):
        """The reverse process, with its evaluations counted."""
        number = iter(range(1, total + 1))

        def p(xt, t):
            self.progress.count("step", next(number), total)
            return self.p(xt, t)

        return p

    def _noise(self, count):
        config = self.preset.model
        return self.rng.standard_normal((count, config.image_size, config.image_size, config.image_channels), dtype=np.float32)

    def _images(self, count):
        """`count` training images, uint8; for None all of them, as they lie in the data set."""
        dataset = data.load(self.args.dataset or self.preset.dataset, self.preset.model, "train", self.args.data_dir)
        return dataset.some(count, self.args.seed)

    def _save(self, rows):
        """Write images (rows, columns, H, W, C), in [-1, 1] or uint8, as a grid."""
        rows = np.stack([to_numpy(row) for row in rows])
        rows = rows if rows.dtype == np.uint8 else plots.to_uint8(rows)
        plots.save_png(self.out, plots.grid(rows.reshape(-1, *rows.shape[2:]), rows.shape[1]))


def scaled(images):
    """uint8 -> float32 in [-1, 1], on the device"""
    return from_numpy(images).astype(np.float32) / 127.5 - 1


FIGURES = {f.__name__.replace("_", "-"): f for f in (
    Figure.samples, Figure.film, Figure.progressive, Figure.shared, Figure.interpolation, Figure.coarse_to_fine,
    Figure.nearest, Figure.schedule, Figure.rate_distortion)}
