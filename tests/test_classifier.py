"""The small classifier: its gradient, its file, and that the weights in the package tell digits from noise."""

import numpy as np
import pytest

from tinyddpm import evaluation, safetensors
from tinyddpm.data import mnist
from tinyddpm.evaluation.classifier import WEIGHTS, Classifier, ClassifierConfig, load_classifier, save_classifier
from tinyddpm.gradcheck import check_network
from tinyddpm.nn import UNetConfig


def test_the_gradient():
    model = Classifier(ClassifierConfig(1, (8, 16), 3), dtype=np.float64).train()
    assert check_network(model, np.random.default_rng(0).standard_normal((2, 8, 12, 1))) < 1e-6


def test_a_file_holds_the_weights_in_16_bits(tmp_path):
    model = Classifier(ClassifierConfig(3, (8,), 4)).eval()
    save_classifier(model, tmp_path / "c", note="a note")
    again = load_classifier(tmp_path / "c")
    assert again.config == model.config and not again.training
    np.testing.assert_allclose(again.flat_values, model.flat_values, atol=1e-3)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    features, p = again.measure(images)
    assert features.shape == (5, 8) and p.shape == (5, 4)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("tensors, metadata",
                         [({}, {}), ({}, {"config": "{}"}),
                          ({"out.bias": np.zeros(4, np.float16)}, {"config": '{"widths": [8]}'})])
def test_other_files_are_refused(tmp_path, tensors, metadata):
    safetensors.write(tmp_path / "c", tensors, metadata)
    with pytest.raises(ValueError, match="not a classifier"):
        load_classifier(tmp_path / "c")


def test_the_weights_in_the_package():
    """They are small, and correct on digits of the training set."""
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) < 1e6
    images, labels = mnist.load_digits()
    _, p = load_classifier(WEIGHTS / "mnist.safetensors").measure(images[::10])
    assert np.mean(p.argmax(axis=1) == labels[::10]) > 0.98
    assert load_classifier(WEIGHTS / "cifar10.safetensors").config.image_channels == 3


def test_classifier_fid_sees_what_is_wrong_with_images():
    """0 for the same digits; more for others, still more for blurred ones, most for noise."""
    images, _ = mnist.load_digits()
    extractor, name = evaluation.extractor(UNetConfig(image_size=28, image_channels=1, channel_multipliers=(1, 2)))
    assert name.format("FID") == "classifier FID, not comparable with Inception FID"
    half, other = images[0::10], images[1::10]
    blurred = ((other.astype(int) + np.roll(other, 2, 1) + np.roll(other, 2, 2)) // 3).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, other.shape, dtype=np.uint8)
    real, *others = (evaluation.measure(extractor, x)[0] for x in (half, half, other, blurred, noise))
    distances = [evaluation.fid(real, x) for x in others]
    assert abs(distances[0]) < 1e-6
    assert distances[1] < 0.1 * distances[2] < 0.1 * distances[3]


def test_images_without_a_classifier_need_inception():
    with pytest.raises(ValueError, match="--inception"):
        evaluation.extractor(UNetConfig(image_size=64))


def test_nearest():
    data = np.array([[0.0, 0], [10, 0], [0, 3], [4, 4]])
    # in several batches
    found = evaluation.nearest(lambda x: x, np.tile(data, (40, 1)), np.array([[0.0, 1], [9, 1]]), 80)
    np.testing.assert_array_equal(found % 4, np.repeat([[0, 2], [1, 3]], 40, axis=1))
