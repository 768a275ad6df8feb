"""Train a small DDPM on handwritten digits, and draw some.

    python examples/train_mnist.py                           5,000 digits that come with the package
    python examples/train_mnist.py --dataset mnist           all 60,000, downloaded once
    python examples/train_mnist.py --resume                  go on with a run that was stopped
"""

from tinyddpm import cli, data, plots, presets
from tinyddpm.diffusion import sample
from tinyddpm.progress import Progress
from tinyddpm.training import Trainer, load_checkpoint
from tinyddpm.training.fit import fit, read_metrics, run_folder

QUICK = dict(steps=30, batch_size=16, sample_every=20, save_every=20, T=50, beta_1=0.002, beta_T=0.4)
SAMPLES = 64


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_run_flags(parser, f"{', '.join(data.NAMES)}, or a folder of images (default: digits)")
    args = parser.parse_args(argv)
    given = cli.overrides(args)
    if args.quick:
        given = QUICK | given
    backend = cli.use_backend(args)

    preset = presets.get("mnist").override(**given)
    folder = run_folder(args.out, preset.dataset, args.resume)
    if args.resume:
        trainer = load_checkpoint(folder / "checkpoint.safetensors")
        trainer.preset = preset = cli.resumed(trainer.preset, given)
    else:
        trainer = Trainer(preset)
    dataset = data.load(preset.dataset, preset.model, "train", args.data_dir)
    print(f"{backend}; {trainer.model.flat_values.size:,} parameters; {len(dataset):,} images of {preset.dataset}; "
          f"files go to {folder}", flush=True)

    if not fit(trainer, dataset, folder):
        print(f"stopped after step {trainer.steps_done:,} and saved; to go on, add: --resume --out {folder}")
        return 130

    metrics = read_metrics(folder / "metrics.csv")
    plots.loss_curve(folder / "loss.png", metrics["step"], metrics["loss"])
    film, progress = plots.Film(), Progress()

    def watch(step, number, total):
        progress.show(f"sampling by Algorithm 2: step {number:,} of {total:,}")
        film.add(step)

    with trainer.averaged() as model:
        images = sample.generate(model, preset.diffusion, SAMPLES, preset.training.seed + 1, watch=watch)
    progress.close()
    plots.save_png(folder / "samples.png", plots.grid(plots.to_uint8(images)))
    film.save(folder / "denoising.gif")
    print(f"samples: {folder / 'samples.png'}\nthe way from noise to them: {folder / 'denoising.gif'}\n"
          f"the loss: {folder / 'loss.png'}, {folder / 'metrics.csv'}\n"
          f"more samples: python examples/sample.py {folder / 'checkpoint.safetensors'}")
    return 0


if __name__ == "__main__":
    cli.program(main)
