"""Every test starts with the readable operations; kernels are compiled at most once (numba's cache)."""

import pytest

import tinyddpm


@pytest.fixture(autouse=True)
def numpy_backend():
    tinyddpm.use("numpy")
    yield
    tinyddpm.use("numpy")
