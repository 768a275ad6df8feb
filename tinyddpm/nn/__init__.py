"""Networks: parameters and wiring. All mathematics is in `ops`."""

import numpy as np

from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.module import Module, Parameter
from tinyddpm.nn.transformer import Transformer, TransformerConfig
from tinyddpm.nn.unet import UNet, UNetConfig

# name, as stored in a preset -> configuration and network
NETWORKS = {"unet": (UNetConfig, UNet), "transformer": (TransformerConfig, Transformer)}


def name_of(config):
    """The name in NETWORKS of the network that a configuration describes."""
    for name, (kind, _) in NETWORKS.items():
        if type(config) is kind:
            return name
    raise ValueError(f"no network has the configuration {type(config).__name__}; there are {', '.join(NETWORKS)}")


def require_size(config, arrays):
    """Raise ValueError for arrays, name -> array, too few for a network that would take very long to build in vain."""
    held = sum(a.size for a in arrays.values())
    if config.least_parameters > held:
        raise ValueError(f"{held:,} numbers; expected more than {config.least_parameters:,} for {config}")


def build(config, seed=0, dtype=np.float32):
    """The network that a configuration describes, with its initial weights."""
    return NETWORKS[name_of(config)][1](config, seed, dtype)
