"""Files of images, compressed without loss by a diffusion model: diffusion/bits_back.py, with a header.

Such a file decodes with the same model, backend and kind of machine, since means must agree to the last bit. It says
what wrote it, and has the digest of its images: those that come out otherwise are not returned.
"""

import hashlib
import json
import math
import platform
from dataclasses import asdict

import numpy as np

from tinyddpm import safetensors
from tinyddpm.backend import state, to_numpy
from tinyddpm.diffusion.ans import Stacks
from tinyddpm.diffusion.bits_back import BitsBack, Uncodable, shortened
from tinyddpm.diffusion.prediction import reverse_process
from tinyddpm.files import parse_json, parsing
from tinyddpm.sampling.samplers import choose_times

KIND, MOST = "images compressed by tinyddpm", 10**9         # of a file; pixels that it may have


def compress(path, model, preset, images, T=100, lanes=32, watch=lambda done, total: None):
    """Write uint8 images (N, H, W, C) to a file. Returns the bits that the stacks borrowed, which are among its own.

    T: the times of the model's process that are used: more are slower, and fewer bits
    lanes: the images that are coded beside each other: more are faster, and borrow more bits
    watch(done, total) is called after each batch
    """
    if not len(images):
        raise ValueError("there are no images to compress")
    lanes = min(lanes, len(images))
    stacks, codec = Stacks(lanes, np.random.default_rng(0)), _codec(model, preset, T)
    for start in range(0, len(images), lanes):
        codec.encode(images[start:start + lanes], stacks)
        watch(min(len(images), start + lanes), len(images))
    settings = {"images": len(images), "T": T, "digest": _digest(images.tobytes()), **_identity(model)}
    words = np.concatenate([stack[:count] for stack, count in zip(stacks.words, stacks.counts)])
    tensors = {"heads": stacks.heads.view(np.int64), "counts": stacks.counts, "words": words.view(np.int32)}
    safetensors.write(path, tensors, {"kind": KIND, "settings": json.dumps(settings)})
    return 32 * int(stacks.borrowed.sum())


def decompress(path, model, preset, watch=lambda done, total: None):
    """The uint8 images (N, H, W, C) of a file that `compress` wrote.

    Raises ValueError for any other file, one that is damaged, or that came from another model, backend or machine.
    """
    with parsing(path, "a file of compressed images"):
        tensors, metadata = safetensors.read(path)
        if metadata.get("kind") != KIND:
            raise ValueError("it holds something else")
        settings = parse_json(metadata["settings"])
        heads, counts, words = (tensors[name] for name in ("heads", "counts", "words"))
        N, T, c = settings["images"], settings["T"], model.config
        if not (type(N) is type(T) is int and (heads.dtype, counts.dtype, words.dtype) == (np.int64, np.int64, np.int32)
                and heads.shape == counts.shape == (len(heads),) and len(heads)
                and 0 <= counts.min() <= counts.max() <= len(words) and words.shape == (counts.sum(),)
                and 2 <= T <= preset.diffusion.T
                and 0 < N * math.prod(c.shape) <= MOST):
            raise ValueError("its numbers do not fit together")
    for what, own in _identity(model).items():
        if settings.get(what) != own:
            raise ValueError(f"{path} needs the {what} it was written with: {settings.get(what)}; this is {own}")
    stacks, codec, lanes = Stacks(len(heads), np.random.default_rng(0)), _codec(model, preset, T), len(heads)
    stacks.heads, stacks.counts = heads.view(np.uint64).copy(), counts.copy()
    stacks.words = np.zeros((lanes, counts.max() + 1), np.uint32)
    for stack, part in zip(stacks.words, np.split(words.view(np.uint32), np.cumsum(counts)[:-1])):
        stack[:len(part)] = part
    found = []
    for start in reversed(range(0, N, lanes)):
        try:
            with np.errstate(divide="ignore"):                  # wrong numbers may have no probability at all
                found.insert(0, codec.decode(min(lanes, N - start), stacks))
        except Uncodable:
            break
        watch(N - start, N)
    images = np.concatenate(found or [np.empty(0, np.uint8)])
    if _digest(images.tobytes()) != settings["digest"]:
        raise ValueError(f"{path}: what was decoded are not the images that were encoded; is this another machine?")
    return images


def _codec(model, preset, T):
    times = choose_times(preset.diffusion.make_schedule(), T, "logsnr")[::-1]
    p, s = shortened(reverse_process(model.eval(), preset.diffusion), times)
    return BitsBack(p, s, model.config.shape)


def _identity(model):
    """What must be the same on both sides: by the name of each, a text."""
    described = json.dumps(asdict(model.config), sort_keys=True).encode() + to_numpy(model.flat_values).tobytes()
    return {"model": _digest(described)[:16], "backend": f"{state.backend}, NumPy {np.__version__}",
            "machine": f"{platform.machine()}, {platform.system()}"}


def _digest(content):
    return hashlib.sha256(content).hexdigest()
