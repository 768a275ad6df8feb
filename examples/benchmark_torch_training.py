"""Training and sampling with the U-Net of benchmark_torch.py: to be timed, and as a Trainer, to be judged."""

from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from benchmark_torch import UNet

from tinyddpm.diffusion import objective, process
from tinyddpm.training import Trainer


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
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), c.clip_norm)
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
