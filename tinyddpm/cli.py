"""What the programs in examples/ share: flags, the choice of backend, and errors in one line."""

import argparse
import importlib.util
import sys
import types
from dataclasses import fields
from pathlib import Path

import tinyddpm
from tinyddpm import backend, data
from tinyddpm.backend import BACKENDS, PRECISIONS, state
from tinyddpm.diffusion.config import DiffusionConfig
from tinyddpm.nn import UNetConfig
from tinyddpm.presets import Preset, TrainingConfig
from tinyddpm.training import Trainer, load_checkpoint, parallel
from tinyddpm.training.checkpoint import same_state
from tinyddpm.training.fit import run_folder

HELP = {  # of the flags that stand for the fields of a preset; the fields' own comments say more
    "steps": "training steps", "minutes": "train for so long instead of so many steps",
    "batch_size": "images in a step", "lr": "learning rate", "seed": "of everything random",
    "prediction": "eps, x0, mu or v", "loss": "simple, L or hybrid", "variance": "large, small or learned",
    "schedule": "linear, quadratic, constant or cosine", "attention_resolutions": "such as 16 or 16,8, or none",
    "channel_multipliers": "such as 1,2,2,2: one for each resolution"}
PORT = 29471
MAY_CHANGE = ("steps", "minutes", "save_every", "sample_every")         # in a run that is resumed


Lines = argparse.RawDescriptionHelpFormatter         # keeps the lines of an epilog


class Parser(argparse.ArgumentParser):
    """argparse, with an error of one line, and without guesses at abbreviated flags."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def require_writable(parser, out, suffixes=None):
    """Refuse a --out that could not be written after all the work, or that does not end in one of the suffixes."""
    path = Path(out)
    if path.is_dir() or not path.resolve().parent.is_dir():
        parser.error(f"--out {out}: expected a file in a folder that exists")
    if suffixes and path.suffix not in suffixes:
        parser.error(f"--out {out}: expected a name that ends in {' or '.join(suffixes)}")
    return path


def refuse(parser, args, flags, what):
    """An error for any of the flags that is given and does not belong to `what`."""
    for flag in flags:
        if getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} does not belong to {what}")


def add_backend_flags(parser):
    parser.add_argument("--backend", default="auto", choices=(*BACKENDS, "auto"), help="auto: numba where installed")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS,
                        help="of what goes into matrix products on a GPU (default fp32)")
    parser.add_argument("--ops", metavar="FILE", help="a Python file whose operations replace those of the same name")
    parser.add_argument("--verbose", action="store_true", help="say which libraries and threads do the work")


def add_data_flags(parser):
    """What a trained model is compared with."""
    parser.add_argument("--dataset", metavar="NAME", help="images to compare with (default: the model's training data)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are (default: downloaded)")
    parser.add_argument("--inception", metavar="FILE",
                        help="features by these Inception-v3 weights, as safetensors (default: a small classifier's)")


def add_sampler_flags(parser):
    parser.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm", help="Algorithm 2, or DDIM (default ddpm)")
    parser.add_argument("--steps", type=int, metavar="K", help="of DDIM (default 50)")
    parser.add_argument("--eta", type=float, metavar="E", help="noise of DDIM, 0 to 1 (default 0)")


def sampler(args):
    """The sampler of the flags: the arguments of sample.generate, and its name for what is printed."""
    if args.sampler == "ddpm":
        if args.steps is not None or args.eta is not None:
            raise ValueError("--steps and --eta belong to --sampler ddim; Algorithm 2 always takes all T steps")
        return {"sampler": "ddpm"}, "Algorithm 2"
    steps, eta = 50 if args.steps is None else args.steps, args.eta or 0.0
    name = f"DDIM with {steps} steps" + (f" and eta {eta}" if eta else "")
    return {"sampler": "ddim", "steps": steps, "eta": eta}, name


def add_run_flags(parser, dataset):
    """The flags of a training program; `dataset` describes the choice."""
    add_backend_flags(parser)
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help=dataset)
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are (default: downloaded)")
    parser.add_argument("--out", metavar="DIR", help="where all files go (default: a new folder in runs/)")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the run in --out (default: the newest in runs/ on that data set)")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything works")
    group = parser.add_argument_group("several GPUs or machines", "one process for each; all with the same flags but --rank")
    group.add_argument("--world-size", type=int, default=1, metavar="N", help="how many processes share the run (default 1)")
    group.add_argument("--rank", type=int, default=0, metavar="R", help="which of them this is, 0 to N - 1; 0 writes all files")
    group.add_argument("--host", default="127.0.0.1", metavar="NAME", help="where rank 0 is (default: this machine)")
    group.add_argument("--port", type=int, default=PORT, metavar="P", help=f"at which it waits for the others (default {PORT})")
    group = parser.add_argument_group("configuration", "each overrides a field of the preset")
    for config in (TrainingConfig, DiffusionConfig, UNetConfig):
        for field in fields(config):
            if field.name == "learned_variance":             # follows from --variance
                continue
            options = {"default": argparse.SUPPRESS, "help": HELP.get(field.name)}
            if field.type is bool:
                options["action"] = argparse.BooleanOptionalAction
            elif isinstance(field.type, types.UnionType):                # int | None, float | None
                options["type"] = field.type.__args__[0]
            else:
                options["type"] = field.type if field.type in (int, float, str) else _integers
            if "type" in options:
                options["metavar"] = {int: "N", float: "X", str: "NAME"}.get(options["type"], "N,N,...")
            group.add_argument("--" + field.name.replace("_", "-"), **options)


def _integers(text):
    return tuple(int(n) for n in text.split(",")) if text != "none" else ()


_integers.__name__ = "list of integers"


def overrides(args):
    """The fields that were given as flags: name -> value."""
    names = {f.name for config in (TrainingConfig, DiffusionConfig, UNetConfig) for f in fields(config)} | {"dataset"}
    given = {name: value for name, value in vars(args).items() if name in names}
    if "steps" in given and "minutes" in given:
        raise ValueError("--steps and --minutes exclude each other")
    if "steps" in given:
        given["minutes"] = None
    return given


def prepare(args, preset, quick):
    """The run that the flags describe, new or resumed: its Trainer, data set and folder.

    quick: the fields that --quick changes
    """
    given = overrides(args)
    if args.quick:
        given = quick | given
    if not 0 <= args.rank < args.world_size:
        raise ValueError(f"--rank {args.rank} --world-size {args.world_size}: expected a rank from 0 to world size - 1")
    in_force = use_backend(args)
    if args.rank:
        return follow(args)
    preset = preset.override(**given)
    folder = run_folder(args.out, preset.dataset, args.resume)
    trainer = None
    if args.resume:
        trainer = load_checkpoint(folder / "checkpoint.safetensors")
        trainer.preset = preset = resumed(trainer.preset, given)
    dataset = data.load(preset.dataset, preset.model, "train", args.data_dir)
    trainer = trainer or Trainer(preset)
    if preset.training.batch_size % args.world_size:
        raise ValueError(f"--batch-size is {preset.training.batch_size}; expected a multiple of the {args.world_size} ranks that share a batch")
    trainer.group = parallel.join(args.world_size, 0, args.host, args.port, tinyddpm.__version__)
    parallel.share(trainer.group, preset.to_json())
    same_state(trainer)
    if (left := trainer.schedule.alpha_bar[-1]) > 0.01:
        print(f"note: x_T keeps {left:.0%} of the data's variance, but sampling starts from noise alone: for "
              f"T = {preset.diffusion.T} choose a larger --beta-T, or --schedule cosine", file=sys.stderr)
    print(f"{in_force}; {trainer.model.flat_values.size:,} parameters; {len(dataset):,} images of {preset.dataset}; "
          f"files go to {folder}", flush=True)
    return trainer, dataset, folder


def follow(args):
    """On every rank but 0: the trainer and the data set of the run that rank 0 describes, and a folder that stays unused."""
    group = parallel.join(args.world_size, args.rank, args.host, args.port, tinyddpm.__version__)
    preset = Preset.from_json(parallel.share(group))
    dataset = data.load(preset.dataset, preset.model, "train", args.data_dir)
    trainer = Trainer(preset, group)
    same_state(trainer)
    print(f"rank {args.rank} of {args.world_size}; {len(dataset):,} images of {preset.dataset}", flush=True)
    return trainer, dataset, Path("unused")


def stopped(trainer, folder):
    """The last words of a run that Ctrl-C ended, and the status of the program."""
    if trainer.group.rank:
        return 130
    print(f"stopped after step {trainer.steps_done:,} and saved; to go on, add: --resume --out {folder}")
    return 130


def finished(trainer, folder):
    """The last words of a run that came to its end, and the status of the program."""
    if trainer.group.rank:
        return 0
    print(f"samples: {folder / 'samples.png'}\nthe way from noise to them: {folder / 'denoising.gif'}\n"
          f"the loss: {folder / 'loss.png'}, {folder / 'metrics.csv'}\n"
          f"more samples: python examples/sample.py {folder / 'checkpoint.safetensors'}")
    return 0


def resumed(preset, given):
    """The preset of a run that goes on, with the flags given now. ValueError for one that would make it another run."""
    changed = preset.override(**given)
    if changed != preset.override(**{name: value for name, value in given.items() if name in MAY_CHANGE}):
        fixed = ", ".join(name for name in given if name not in MAY_CHANGE)
        raise ValueError(f"the run to resume has its own configuration; of the flags given, {fixed} would change it")
    return changed


def use_backend(args):
    """Put the backend and the operations of the flags in force. Returns a line that says which."""
    module = None
    if args.ops:
        path = Path(args.ops)
        if not path.is_file() or path.suffix != ".py":
            raise ValueError(f"--ops {path}: expected a .py file that exists")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:              # whatever is wrong with it is its author's to mend
            raise ValueError(f"--ops {path} cannot be loaded: {type(error).__name__}: {error}") from None
    tinyddpm.use(args.backend, module, args.precision)
    if state.backend == "cupy" and getattr(args, "world_size", 1) > 1:
        state.xp.cuda.Device(args.rank % state.xp.cuda.runtime.getDeviceCount()).use()
    if args.verbose:
        print(backend.describe(), file=sys.stderr)
    return f"backend {state.backend}" + f" in {state.precision}" * (state.precision != "fp32") + (f", with {', '.join(state.own)} of {args.ops}" if args.ops else "")


def program(main):
    """Run main(argv) and exit: what goes wrong is one line on stderr and status 2; Ctrl-C is status 130."""
    try:
        status = main(sys.argv[1:])
    except (ValueError, OSError, MemoryError) as error:
        print(f"\n{Path(sys.argv[0]).name}: error: {describe(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        status = 130
    sys.exit(status)


def describe(error):
    """An error in one line: for the system's own, what failed and on which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}): choose a smaller batch, count or model"
    return " ".join(str(error).split())
