"""FID and Inception score in cases whose values are known, and the network against PyTorch's."""

import json
import re

import numpy as np
import pytest
from golden.make_inception import EVERY, PATH, draw, images

import tinyddpm
from tinyddpm import safetensors
from tinyddpm.evaluation import Statistics, fid, inception, inception_score
from tinyddpm.evaluation.inception import Conv, Fork, Inception

TOLERANCE = 1e-5                    # of the network, relative to the largest feature or probability


def features(n, D, seed=0):
    """Non-negative and correlated, like features after a ReLU."""
    rng = np.random.default_rng([seed, n, D])
    return np.maximum(rng.standard_normal((n, D)) @ rng.standard_normal((D, D)) / np.sqrt(D) + 0.3, 0)


def statistics(*batches):
    found = Statistics()
    for batch in batches:
        found.add(batch)
    return found


def gaussian(mean, deviations):
    """Statistics with exactly this mean and a diagonal covariance: pairs of samples, one pair along each axis."""
    D = len(mean)
    steps = np.diag(deviations) * np.sqrt((2 * D - 1) / 2)
    return statistics(mean + steps, mean - steps)


# ---- Statistics ----

@pytest.mark.parametrize("offset", [0, 2.0**26])
def test_streamed_statistics_are_those_of_all_samples(offset):
    x = np.rint(features(40, 5) * 1024) / 1024              # exact even with the offset
    s = statistics(*np.split(x + offset, [1, 8, 10]))
    assert s.count == 40
    np.testing.assert_allclose(s.mean - offset, x.mean(axis=0), atol=1e-7 if offset else 1e-14)
    np.testing.assert_allclose(s.covariance, np.cov(x.T), rtol=1e-7, atol=1e-9)


def test_float32_features_are_added_in_float64():
    x = features(1000, 3).astype(np.float32)
    s = statistics(*np.split(x, 100))
    np.testing.assert_allclose(s.covariance, np.cov(x.T.astype(np.float64)), rtol=1e-12)


@pytest.mark.parametrize("refused", [np.ones(4), np.ones((0, 4)), np.ones((2, 3)), np.ones((2, 4, 1)),
                                     np.array([[1, 2, np.nan, 4]]), np.array([[1, 2, 3, np.inf]])])
def test_statistics_refuse_other_features(refused):
    s = statistics(np.ones((1, 4)))
    with pytest.raises(ValueError, match="Statistics: the features"):
        s.add(refused)
    assert s.count == 1


@pytest.mark.parametrize("refused", [np.ones(4), np.ones((2, 4, 1)), np.array([[np.nan]])])
def test_statistics_refuse_what_is_no_row_of_features_from_the_start(refused):
    s = Statistics()
    with pytest.raises(ValueError, match="Statistics: the features"):
        s.add(refused)
    assert s.count == 0


def test_two_samples_have_a_covariance():
    np.testing.assert_allclose(statistics(np.array([[1.0, 2.0], [3.0, 6.0]])).covariance, [[2, 4], [4, 8]])


def test_fid_knows_no_unit():
    """Features a billion times smaller have a distance that is smaller by the square of that."""
    x, y = np.random.default_rng(0).standard_normal((2, 50, 4))
    whole, small = (fid(*map(statistics, (c * x, c * (y + 0.5)))) for c in (1.0, 1e-9))
    assert small == pytest.approx(1e-18 * whole, rel=1e-8) and whole > 0.5


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="1 samples"):
        statistics(np.ones((1, 4))).covariance
    with pytest.raises(ValueError, match="0 samples"):
        fid(Statistics(), statistics(np.ones((2, 4))))


# ---- fid ----

@pytest.mark.parametrize("n", [60, 600])                    # fewer samples than features, and more
def test_a_set_is_at_distance_0_from_itself(n):
    x = features(n, 200)
    s = statistics(x)
    assert abs(fid(s, s)) < 1e-9
    assert abs(fid(s, statistics(*np.array_split(x[::-1], 7)))) < 1e-9
    assert fid(s, statistics(1.01 * x)) > 1e-3


def test_fid_is_symmetric():
    a, b = statistics(features(90, 64)), statistics(features(30, 64, seed=1))
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-12)


def test_fid_of_diagonal_gaussians():
    """|m1 - m2|^2 + sum (s1 - s2)^2; deviations may differ by orders of magnitude, or be 0."""
    m1, m2 = np.array([[1.0, -2, 0.5, 3], [0, -1, 4, 3]])
    s1, s2 = np.array([[1000.0, 0.2, 3, 0], [2, 0.1, 0, 0]])
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert fid(gaussian(m1, s1), gaussian(m2, s2)) == pytest.approx(expected, rel=1e-12)


def test_fid_of_a_shift_is_its_square():
    x, shift = features(300, 20), np.linspace(-1, 2, 20)
    assert fid(statistics(x), statistics(x + shift)) == pytest.approx(shift @ shift, rel=1e-10)


def test_fid_where_the_covariances_do_not_commute():
    """For 2x2 matrices tr(M^(1/2)) = sqrt(tr M + 2 sqrt(det M))."""
    a, b = (statistics(features(50, 2, seed)) for seed in (0, 1))
    M = a.covariance @ b.covariance
    assert abs(M - M.T).max() > 0.01
    root = np.sqrt(np.trace(M) + 2 * np.sqrt(np.linalg.det(M)))
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * root
    assert fid(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n, m", [(40, 30), (20, 500), (500, 20)])
def test_fid_of_fewer_samples_than_features(n, m):
    """From centred samples X and Y, without covariances: the trace is the sum of the singular values of X Y^T."""
    x, y = features(n, 100), features(m, 100, seed=1)
    X, Y = ((z - z.mean(axis=0)) / np.sqrt(len(z) - 1) for z in (x, y))
    root = np.linalg.svd(X @ Y.T, compute_uv=False).sum()
    expected = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + (X * X).sum() + (Y * Y).sum() - 2 * root
    assert fid(statistics(x), statistics(y)) == pytest.approx(expected, rel=1e-12)


def test_fid_agrees_with_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = statistics(features(500, 64)), statistics(features(300, 64, seed=1))
    root = linalg.sqrtm(a.covariance @ b.covariance)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root.real)
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)


def test_fid_refuses_features_of_different_widths():
    with pytest.raises(ValueError, match="4 and 5 wide"):
        fid(statistics(np.eye(4)), statistics(np.eye(5)))


# ---- inception_score ----

def test_inception_score_of_known_predictions():
    assert inception_score(np.full((20, 8), 1 / 8)) == pytest.approx((1, 0))
    assert inception_score(np.tile(np.eye(5), (4, 1)), splits=4) == pytest.approx((5, 0))
    expected = np.exp((np.log(4 / 3) + 0.5 * np.log(2 / 3) + 0.5 * np.log(2)) / 2)      # p(y) = (3/4, 1/4)
    assert inception_score([[1, 0], [0.5, 0.5]], splits=1) == pytest.approx((expected, 0))


def test_inception_score_is_the_mean_over_the_parts():
    """Seven rows in two parts, 3 and 4: the first all alike, the second with two classes, equally often."""
    p = np.array([[0.5, 0.5]] * 3 + [[1, 0], [0, 1]] * 2)
    assert inception_score(p, splits=2) == pytest.approx((1.5, 0.5))


def test_inception_score_of_the_smallest_numbers():
    """Two classes have probability 0, a third so little, in one image only, that its mean underflows to 0."""
    p = np.zeros((4, 4))
    p[:, 0], p[2, 1] = 1, 5e-324
    assert inception_score(p, splits=1) == pytest.approx((1, 0))


@pytest.mark.parametrize("refused", [np.full(4, 0.25), np.full((4, 4), 0.26), np.array([[1.5, -0.5]] * 2),
                                     np.array([[np.nan, 1]] * 2), np.array([[np.inf, 0]] * 2)])
def test_inception_score_refuses_what_is_no_probability(refused):
    with pytest.raises(ValueError, match="rows of probabilities"):
        inception_score(refused, splits=1)


@pytest.mark.parametrize("splits", [0, 5])
def test_inception_score_refuses_fewer_rows_than_parts(splits):
    with pytest.raises(ValueError, match=f"4 rows in {splits} parts"):
        inception_score(np.eye(4), splits=splits)


# ---- the operations of the network ----

def pool_in_loops(x, reduce, stride, margin):
    """Reduce the 3x3 pixels around every pixel, or every other one, at least `margin` from the edge; float64."""
    N, H, W, C = x.shape
    rows, columns = range(margin, H - margin, stride), range(margin, W - margin, stride)
    y = np.zeros((N, len(rows), len(columns), C))
    for n, i, j, c in np.ndindex(y.shape):
        row, column = rows[i], columns[j]
        y[n, i, j, c] = reduce(x[n, max(row - 1, 0):row + 2, max(column - 1, 0):column + 2, c])
    return y


@pytest.mark.parametrize("shape", [(2, 5, 8, 3), (1, 4, 3, 1)])
def test_pooling(shape):
    x = np.random.default_rng(0).standard_normal(shape) - 2         # mostly negative: a padding of 0 would win
    np.testing.assert_array_equal(inception.halve(x), pool_in_loops(x, np.max, 2, 1))
    np.testing.assert_array_equal(inception.max_pool(x), pool_in_loops(x, np.max, 1, 0))
    np.testing.assert_allclose(inception.average_pool(x), pool_in_loops(x, np.mean, 1, 0), rtol=1e-13)


def test_resizing_known_rows():
    """Pixels have centres at 1/2, 3/2, ...: enlarged, reduced by 2 (between two), reduced by 3 (one of three)."""
    for row, expected in [([0, 4], [0, 1, 3, 4]), ([7], [7, 7, 7]), ([0, 1, 2, 3], [0.5, 2.5]),
                          ([9, 1, 9, 9, 5, 9], [1, 5]), ([3, 1, 4], [3, 1, 4])]:
        for x in (np.array(row, float).reshape(1, -1, 1, 1), np.array(row, float).reshape(1, 1, -1, 1)):
            y = inception.resize(x, len(expected))[0, :, :, 0]
            np.testing.assert_allclose(y if x.shape[1] > 1 else y.T, np.repeat([expected], len(expected), 0).T)


def test_resizing_is_bilinear():
    x, size = np.random.default_rng(0).standard_normal((2, 5, 3, 2)), 4
    y = np.zeros((2, size, size, 2))
    for i, j in np.ndindex(size, size):
        row, column = max((i + 0.5) * 5 / size - 0.5, 0), max((j + 0.5) * 3 / size - 0.5, 0)
        for p, q in np.ndindex(5, 3):
            row_weight = max(0, 1 - abs(p - min(row, 4)))
            y[:, i, j] += x[:, p, q] * row_weight * max(0, 1 - abs(q - min(column, 2)))
    np.testing.assert_allclose(inception.resize(x, size), y, rtol=1e-12)


def test_images_are_prepared():
    grey = np.zeros((2, 4, 6, 1), np.uint8)
    grey[1] = 255
    x = inception.prepare(grey)
    assert x.shape == (2, 299, 299, 3) and x.dtype == np.float32
    assert (x[0] == -1).all() and (x[1] == 1).all()
    colours = images()
    np.testing.assert_array_equal(inception.prepare(colours[..., 1:2])[..., 2], inception.prepare(colours)[..., 1])


@pytest.mark.parametrize("refused", [np.zeros((2, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8),
                                     np.zeros((2, 4, 4, 2), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)])
def test_other_images_are_refused(refused):
    with pytest.raises(ValueError, match="expected uint8"):
        inception.prepare(refused)


# ---- the network ----

IGNORED = {"AuxLogits.fc.bias": np.ones(3, np.float32),
           "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(7, np.int64)}


@pytest.fixture(scope="module")
def weights():
    return draw()


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    """Loaded from a file as others write it: without our checksum, and with arrays that are not used."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    header, start = {}, 0
    for key, a in (weights | IGNORED).items():
        stop = start + a.nbytes
        header[key] = {"dtype": safetensors.NAMES[a.dtype], "shape": a.shape, "data_offsets": [start, stop]}
        start = stop
    encoded = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.writelines(a.tobytes() for a in (weights | IGNORED).values())
    yield Inception(path)
    path.unlink()


def errors(model, count):
    """The largest error of the features and of the probabilities of `count` images, relative to the largest value."""
    golden = np.load(PATH)
    tinyddpm.use("numba")                                   # a forward takes seconds with the readable operations
    return [abs(got[:, ::EVERY] - golden[name][:count]).max() / golden[name].max()
            for name, got in zip(("features", "probabilities"), model.measure(images()[:count]))]


def test_the_network_computes_what_pytorch_computes(model):
    assert max(errors(model, 2)) < TOLERANCE


def average_with_padding(x):
    return sum(inception.windows(inception.padded(x, 0))) / 9


def corners_aligned(x, size):
    for axis in (1, 2):
        position = np.linspace(0, x.shape[axis] - 1, size)
        low = np.minimum(position.astype(int), x.shape[axis] - 2)
        fraction = np.expand_dims((position - low).astype(x.dtype), [0, 2, 3] if axis == 1 else [0, 1, 3])
        x = x.take(low, axis=axis) * (1 - fraction) + x.take(low + 1, axis=axis) * fraction
    return x


def with_pool(block, pool):
    """The network with another pool in one block."""
    return [Fork(part.name, [*part.branches[:-1], [pool, *part.branches[-1][1:]]])
            if isinstance(part, Fork) and part.name == block else part for part in inception.NETWORK]


@pytest.mark.parametrize("name, wrong", [
    ("NETWORK", with_pool("Mixed_5b.", average_with_padding)),
    ("NETWORK", with_pool("Mixed_6e.", average_with_padding)),
    ("NETWORK", with_pool("Mixed_7b.", average_with_padding)),
    ("NETWORK", with_pool("Mixed_7b.", inception.max_pool)),
    ("NETWORK", with_pool("Mixed_7c.", inception.average_pool)),
    ("resize", corners_aligned)])
def test_a_variant_of_the_network_is_noticed(model, monkeypatch, name, wrong):
    monkeypatch.setattr(inception, name, wrong)
    assert min(errors(model, 1)) > 10 * TOLERANCE


def test_the_readable_operations_agree_and_classes_are_those_of_the_file(weights, model, monkeypatch):
    """At a quarter of the resolution, and with the last layer cut to ten classes."""
    cut = weights | {"fc.weight": weights["fc.weight"][:10], "fc.bias": weights["fc.bias"][:10]}
    monkeypatch.setattr(safetensors, "read", lambda path, checked: (cut, {}))
    monkeypatch.setattr(inception, "SIZE", 75)
    x, probabilities = Inception("ten classes").measure(images())
    tinyddpm.use("numba")
    expected, of_all = model.measure(images())
    np.testing.assert_allclose(x, expected, atol=TOLERANCE * expected.max())
    np.testing.assert_allclose(probabilities, of_all[:, :10] / of_all[:, :10].sum(axis=1, keepdims=True), rtol=1e-4)
    assert probabilities.shape == (2, 10) and x.shape == (2, 2048)


@pytest.mark.parametrize("key, a, what", [
    ("Mixed_6b.branch7x7_2.conv.weight", None, "is missing; expected floats (128, 128, 1, 7)"),
    ("Mixed_6b.branch7x7_2.conv.weight", np.ones((128, 128, 7, 1), np.float32), "is float32 (128, 128, 7, 1)"),
    ("Mixed_7c.branch3x3_2b.bn.running_var", np.ones(384, np.int32), "is int32 (384,); expected floats (384,)"),
    ("fc.bias", None, "is missing; expected floats (1008,)"),
    ("fc.weight", np.ones((1000, 2048), np.float32), "is float32 (1000, 2048); expected floats (1008, 2048)"),
    ("Mixed_7d.branch1x1.conv.weight", np.ones((1, 1), np.float32), "came unexpected")])
def test_other_weights_are_refused(weights, monkeypatch, key, a, what):
    tensors = {k: v for k, v in (weights | {key: a}).items() if v is not None}
    monkeypatch.setattr(safetensors, "read", lambda path, checked: (tensors, {}))
    with pytest.raises(ValueError, match="my file: .*" + re.escape(what)):
        Inception("my file")


def test_the_published_names():
    shapes = inception.published_shapes()
    assert len(shapes) == 94 * 5 + 2 and sum(np.prod(shape) for shape in shapes.values()) == 23885392
    assert shapes["Mixed_7b.branch3x3dbl_3a.conv.weight"] == (384, 384, 1, 3)
    assert shapes["Mixed_6d.branch7x7dbl_4.bn.running_mean"] == (160,)
    assert Conv("Conv2d_2b_3x3", 64, (3, 3)) in inception.NETWORK
