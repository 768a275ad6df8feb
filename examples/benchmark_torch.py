"""The same U-Net and training step in plain PyTorch, for benchmark.py to compare with."""

from contextlib import contextmanager

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from tinyddpm.diffusion import objective, process
from tinyddpm.nn.layers import NORM_EPS
from tinyddpm.training import Trainer


def near_zero(layer):
    """The layer, initialized as ours are that end a block or the network."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    def __init__(self, C, K, D, c):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(c.groups, C, NORM_EPS), nn.Conv2d(C, K, 3, padding=1)
        self.time = nn.Linear(D, K)
        self.norm2, self.dropout = nn.GroupNorm(c.groups, K, NORM_EPS), nn.Dropout(c.dropout)
        self.conv2 = near_zero(nn.Conv2d(K, K, 3, padding=1))
        self.shortcut = nn.Conv2d(C, K, 1) if C != K else nn.Identity()

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x))) + self.time(temb)[:, :, None, None]
        return self.conv2(self.dropout(F.silu(self.norm2(h)))) + self.shortcut(x)


class Attention(nn.Module):
    def __init__(self, C, c):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(c.groups, C, NORM_EPS), c.heads
        self.qkv, self.out = nn.Conv2d(C, 3 * C, 1), near_zero(nn.Conv2d(C, C, 1))

    def forward(self, x):
        N, C, H, W = x.shape
        q, k, v = (z.reshape(N, self.heads, -1, H * W).transpose(2, 3) for z in self.qkv(self.norm(x)).chunk(3, 1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(N, C, H, W))


class Block(nn.Module):
    def __init__(self, C, K, attention, c):
        super().__init__()
        self.res = ResBlock(C, K, 4 * c.base_channels, c)
        self.attention = Attention(K, c) if attention else nn.Identity()

    def forward(self, x, temb):
        return self.attention(self.res(x, temb))


class UNet(nn.Module):
    """The network that a UNetConfig describes; x (N, C, H, W), t (N,) counted from 1, labels (N,) if it has classes."""

    def __init__(self, c):
        super().__init__()
        self.config, base, levels = c, c.base_channels, range(len(c.channel_multipliers))
        widths, resolution = [base * m for m in c.channel_multipliers], c.image_size // c.patch_size
        attention = [resolution >> level in c.attention_resolutions for level in levels]
        self.register_buffer("frequency", torch.logspace(0, -4, base // 2))      # for torch.compile to know its device
        self.time = nn.Sequential(nn.Linear(base, 4 * base), nn.SiLU(), nn.Linear(4 * base, 4 * base))
        self.labels = nn.Embedding(c.num_classes + 1, 4 * base) if c.num_classes else None
        folded = c.image_channels * c.patch_size**2
        self.conv_in = nn.Conv2d(folded, base, 3, padding=1)
        C, skips, self.down, self.up = base, [base], nn.ModuleList(), nn.ModuleList()
        for level in levels:
            for _ in range(c.blocks_per_level):
                self.down.append(Block(C, widths[level], attention[level], c))
                C = widths[level]
            skips += [C] * (c.blocks_per_level + (level != levels[-1]))
            if level != levels[-1]:
                self.down.append(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(C, C, 3, stride=2)))
        self.middle = nn.ModuleList([Block(C, C, True, c), Block(C, C, False, c)])
        for level in reversed(levels):
            for _ in range(c.blocks_per_level + 1):
                self.up.append(Block(C + skips.pop(), widths[level], attention[level], c))
                C = widths[level]
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(C, C, 3, padding=1)))
        self.out = nn.Sequential(nn.GroupNorm(c.groups, C, NORM_EPS), nn.SiLU(),
                                 near_zero(nn.Conv2d(C, folded, 3, padding=1)))

    def forward(self, x, t, labels=None):
        angles = (t - 1)[:, None] * self.frequency
        temb = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        temb = F.silu(temb if labels is None else temb + self.labels(labels))
        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch_size))
        skips = [h]
        for module in self.down:
            skips.append(h := module(h, temb) if isinstance(module, Block) else module(h))
        h = self.middle[1](self.middle[0](h, temb), temb)
        for module in self.up:
            h = module(torch.cat([h, skips.pop()], 1), temb) if isinstance(module, Block) else module(h)
        return F.pixel_shuffle(self.out(h), self.config.patch_size)


class TorchTrainer(Trainer):
    """A Trainer with PyTorch's network, optimizer and average, but the same recipe, batches and random numbers."""

    def __init__(self, preset):
        super().__init__(preset)
        torch.manual_seed(preset.training.seed)
        self.net = UNet(preset.model).to(memory_format=torch.channels_last)
        self.average = [p.detach().clone() for p in self.net.parameters()]
        c = preset.training
        self.adam = torch.optim.Adam(self.net.parameters(), c.lr, (c.adam_beta1, c.adam_beta2), c.adam_eps)

    def step(self, images, labels=None):
        number, c, d = self.steps_done + 1, self.preset.training, self.preset.diffusion
        x0, t, eps, inputs = self.draw(number, images, labels)
        xt = process.q_sample(self.schedule, x0, t, eps)
        y = self.run(xt, t, inputs.get("labels"))
        loss, dy = objective.LOSSES[d.loss](self.schedule, x0, xt, t, eps, y.detach().numpy(), d.prediction, d.variance)
        self.adam.zero_grad()
        y.backward(torch.from_numpy(dy))
        nn.utils.clip_grad_norm_(self.net.parameters(), c.clip_norm)
        self.adam.param_groups[0]["lr"] = self.optimizer.learning_rate(number, self.progress)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.net.parameters()),
                                 1 - min(c.ema_decay, number / (number + 9)))
        self.steps_done = number
        return loss

    def run(self, x, t, labels):
        """NumPy arrays (N, H, W, C), (N,) and (N,) or None -> a tensor (N, H, W, C)"""
        labels = None if labels is None else torch.from_numpy(labels)
        return self.net(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t), labels).permute(0, 2, 3, 1)

    @contextmanager
    def averaged(self):
        """Within the block, the network has the averaged parameters; it is called like one of ours."""
        parameters, kept = list(self.net.parameters()), [p.detach().clone() for p in self.net.parameters()]
        with torch.no_grad():
            torch._foreach_copy_(parameters, self.average)
            self.net.eval()
            yield Sampled(self)
            self.net.train()
            torch._foreach_copy_(parameters, kept)


class Sampled:
    """The network of a TorchTrainer as the reverse process calls one."""

    training = False

    def __init__(self, trainer):
        self.trainer, self.config = trainer, trainer.preset.model

    def forward(self, x, t, labels=None):
        if self.config.num_classes and labels is None:
            labels = np.full(len(x), self.config.num_classes)
        return self.trainer.run(x, t, labels).numpy()


def prepare_cuda():
    """Put everything on the GPU, with TF32 for what stays in float32."""
    torch.set_default_device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


def steps(preset, task, channels_last, compiled, autocast=False):
    """A function that makes one training step, or one reverse step with its noise, like benchmark.py's our_step."""
    c, training = preset.model, preset.training
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = UNet(c).to(memory_format=layout)
    compiled_or_not = torch.compile(model) if compiled else model
    device = torch.get_default_device().type

    def run(x, t):
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            return compiled_or_not(x, t).float()

    images = torch.randint(0, 256, (training.batch_size, c.image_channels, c.image_size, c.image_size),
                           dtype=torch.uint8)
    s = preset.diffusion.make_schedule()
    alpha_bar, ema = torch.tensor(s.alpha_bar, dtype=torch.float32), [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters(), training.lr)

    def train():
        x0 = (images.float() / 127.5 - 1).contiguous(memory_format=layout)
        t, eps = torch.randint(1, s.T + 1, (len(x0),)), torch.randn_like(x0)
        a = alpha_bar[t][:, None, None, None]
        loss = F.mse_loss(run(a.sqrt() * x0 + (1 - a).sqrt() * eps, t), eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(model.parameters()), 1 - training.ema_decay)

    now, x = s.T // 2, torch.randn(images.shape).contiguous(memory_format=layout)
    from_x0, from_xt = (float(factor) for factor in process.posterior_coefficients(s, now))

    @torch.no_grad()
    def sample():
        eps = run(x, torch.full((len(x),), now))
        x0 = ((x - (1 - alpha_bar[now]).sqrt() * eps) / alpha_bar[now].sqrt()).clamp(-1, 1)
        return from_x0 * x0 + from_xt * x + float(s.beta[now])**0.5 * torch.randn_like(x)

    model.train(task == "train")
    return train if task == "train" else sample
