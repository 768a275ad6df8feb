"""Make the golden arrays of tests/test_solvers.py: where the schedulers of diffusers lead from the same eps and noise.

    python -m pip install torch diffusers && python tests/golden/make_solvers.py

Only this script needs torch and diffusers. eps is that of tests/test_solvers.py: exact, for a mixture of normals.
"""

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parent)]
TIMES = list(range(901, 0, -100))           # ours: 1 more than those of diffusers


def walk(scheduler, p, s, x, two=False):
    """x after the steps of a scheduler; two: it evaluates twice a step, and the first is left out."""
    import torch
    from tinyddpm.diffusion.process import eps_from_x0
    walked, x = [], torch.tensor(x) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled, ours = scheduler.scale_model_input(x, t).numpy(), int(t) + 1
        eps = eps_from_x0(s, p(scaled, np.full(len(scaled), ours))[2], scaled, ours)
        x = scheduler.step(torch.tensor(eps), t, x).prev_sample
        walked.append(x.numpy())
    return np.stack(walked[1::2] + walked[-1:] if two else walked)


def main():
    from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, PNDMScheduler
    from test_solvers import START, S, exact
    common = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    dpm = DPMSolverMultistepScheduler(**common, final_sigmas_type="zero")
    dpm.set_timesteps(timesteps=[t - 1 for t in TIMES])
    heun = HeunDiscreteScheduler(**common)
    heun.set_timesteps(timesteps=[t - 1 for t in TIMES])
    pndm = PNDMScheduler(**common, skip_prk_steps=True, set_alpha_to_one=True)
    pndm.set_timesteps(len(TIMES))
    sigma = np.sqrt(1 / S.alpha_bar[TIMES[0]] - 1)
    start = START * np.sqrt(1 + sigma**2) / heun.init_noise_sigma       # of Heun, whose x is ours / sqrt(alpha_bar)
    found = {"dpmpp_2m": walk(dpm, exact, S, START), "plms": walk(pndm, exact, S, START)[1:],
             "heun": walk(heun, exact, S, np.asarray(start), two=True)}
    np.savez(FOLDER / "solvers.npz", **{name: array.astype(np.float32) for name, array in found.items()})


if __name__ == "__main__":
    main()
