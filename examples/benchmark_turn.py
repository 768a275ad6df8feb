"""One turn of one side in benchmark.py, in a process of its own: its argument and its result are JSON."""

import json

import numpy as np
from benchmark_measure import gemm, median, peak_memory, use
from benchmark_models import MODELS, calls, our_layer, products, title

from tinyddpm import cli
from tinyddpm.backend import from_numpy, generator, state
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.nn import UNet
from tinyddpm.training import Trainer


def main(argv):
    print(json.dumps(turn(**json.loads(argv[0]))))
    return 0


def turn(task, side, seconds, model=None, compiled=False, changes=None):
    """The median seconds of a step (for sampling: of one evaluation) and peak memory; or the times of the layers."""
    of_torch, on_cuda = side.startswith("torch"), "cuda" in side
    channels_last = on_cuda or side.endswith("channels_last")
    if on_cuda:
        from benchmark_torch_training import prepare_cuda
        prepare_cuda()
    if task == "gemm":
        return gemm(side, seconds)
    if task == "quality":
        import benchmark_quality
        return benchmark_quality.turn(side, model, **changes)
    preset = MODELS[model].override(**changes or {})
    if task == "layers":
        found, results = calls(preset.model, preset.training.batch_size), {}
        if of_torch:
            from benchmark_torch_layers import torch_layer
        else:
            use(side)
        for layer, count in found.items():
            step = torch_layer(*layer, channels_last) if of_torch else our_layer(*layer)
            results[title(*layer)] = {"ms": median(step, seconds / len(found)) * 1e3, "count": count,
                                      "flops": 3 * products(*layer)}
        return results
    if of_torch:
        from benchmark_torch_training import steps
        step = steps(preset, task, channels_last, compiled or side.endswith("compiled"), autocast="bf16" in side)
    else:
        use(side)
        step = our_step(preset, task)
    return {"seconds": median(step, seconds), "peak": peak_memory(on_cuda)}


def our_step(preset, task):
    """A function that makes one training step on random bytes, or one step of the reverse process with its noise."""
    c, rng = preset.model, np.random.default_rng(0)
    shape = (preset.training.batch_size, c.image_size, c.image_size, c.image_channels)
    if task == "train":
        trainer, images = Trainer(preset), rng.integers(0, 256, shape, dtype=np.uint8)
        images = from_numpy(images)                         # on the device, as in a run
        return lambda: trainer.step(images)
    rng = generator(0, "benchmark")
    s, x = preset.diffusion.make_schedule(), rng.standard_normal(shape, dtype=np.float32)
    p = reverse_process(UNet(c).eval(), preset.diffusion)

    def step():
        mean, sigma2, _ = p(x, np.full(len(x), s.T // 2))
        return mean + state.xp.sqrt(sigma2) * rng.standard_normal(shape, dtype=np.float32)

    return step


if __name__ == "__main__":
    cli.program(main)
