"""Make the golden arrays of tests/test_evaluation.py: what pytorch-fid's Inception-v3 computes with seeded weights.

    python -m pip install torch torchvision pytorch-fid && python tests/golden/make_inception.py

Only this script needs them; it downloads no weights. It also compares every feature and every probability with ours,
and prints the largest differences. The arrays it stores hold no weights: the test draws them again, by `draw`.
"""

import tempfile
import zlib
from pathlib import Path
from unittest import mock

import numpy as np

from tinyddpm.evaluation.inception import Inception, published_shapes

PATH = Path(__file__).with_name("inception.npz")
EVERY = 4                                       # the features and probabilities that are stored: each fourth


def uniform(name, shape):
    """float32 numbers of mean 0 and variance 1 that depend on the name and the shape alone."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.random(shape, np.float32) * 2 - 1) * np.float32(np.sqrt(3))


def draw():
    """Weights for every key. Variance 2 over the inputs keeps the signal's size through a ReLU (He et al. 2015).

    The last layer's are smaller, so that no class takes all of the probability.
    """
    weights = {}
    for key, shape in published_shapes().items():
        scale = 0.2 if len(shape) == 1 else (2 / np.prod(shape[1:])) ** 0.5 * (0.1 if key == "fc.weight" else 1)
        weights[key] = uniform(key, shape) * np.float32(scale)
        if key.endswith(("bn.weight", "bn.running_var")):
            weights[key] += 1
    return weights


def images():
    """Two small pictures, wider than high, of random pixels: uint8 (2, 20, 28, 3)."""
    return ((uniform("images", (2, 20, 28, 3)) / np.sqrt(3) + 1) * 128).astype(np.uint8)


def theirs(weights, images):
    """Features and probabilities of pytorch-fid, which takes images as floats in [0, 1] and lacks the last layer."""
    import torch
    from pytorch_fid import inception

    state = {key: torch.from_numpy(a) for key, a in weights.items()}
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state), torch.no_grad():
        features, = inception.InceptionV3().eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        features = features[:, :, 0, 0]
        return features.numpy(), inception.fid_inception_v3().fc(features).softmax(dim=1).numpy()


def main():
    import tinyddpm
    from tinyddpm import safetensors

    weights = draw()
    golden = theirs(weights, images())
    with tempfile.TemporaryDirectory() as folder:
        safetensors.write(folder + "/weights.safetensors", weights, {})
        model = Inception(folder + "/weights.safetensors")
    for backend in ("numpy", "numba"):
        tinyddpm.use(backend)
        for name, got, expected in zip(("features", "probabilities"), model.measure(images()), golden):
            error = abs(got - expected).max() / expected.max()
            print(f"{backend} {name} {got.shape}: largest difference {error:.1e} of the largest; "
                  f"they are {expected.min():.1e} to {expected.max():.1e} and differ between the images by "
                  f"{abs(expected[0] - expected[1]).max():.1e}")
    np.savez_compressed(PATH, features=golden[0][:, ::EVERY], probabilities=golden[1][:, ::EVERY])


if __name__ == "__main__":
    main()
