"""Networks: parameters and wiring. All mathematics is in `ops`."""

from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.module import Module, Parameter
from tinyddpm.nn.unet import UNet, UNetConfig
