"""What the programs in examples/ share: flags, the choice of backend, and errors in one line."""

import argparse
import importlib.util
import os
import sys
import types
from dataclasses import fields
from pathlib import Path

import tinyddpm
from tinyddpm import dispatch, nn
from tinyddpm.backend import on_gpu, state
from tinyddpm.diffusion.config import CHOICES, DiffusionConfig
from tinyddpm.presets import TrainingConfig
from tinyddpm.sampling.steps import OPTIONS, SAMPLERS
from tinyddpm.training import rendezvous, run

CONFIGS = (TrainingConfig, DiffusionConfig, *(config for config, _ in nn.NETWORKS.values()))
HELP = {  # of the flags that stand for the fields of a preset; the fields' own comments say more
    "steps": "training steps", "minutes": "train for so long instead of so many steps",
    "batch_size": "images in a step", "lr": "learning rate", "seed": "of everything random",
    "attention_resolutions": "such as 16 or 16,8, or none",
    "channel_multipliers": "such as 1,2,2,2: one for each resolution",
    **{name: ", ".join(choices) for name, choices in CHOICES.items()}}

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
    parser.add_argument("--backend", default="auto", choices=(*dispatch.BACKENDS, "auto"),
                        help="auto: numba where installed")
    parser.add_argument("--precision", default="fp32", choices=dispatch.PRECISIONS,
                        help="of what goes into matrix products on a GPU (default fp32)")
    parser.add_argument("--ops", metavar="FILE", help="a Python file whose operations replace those of the same name")
    parser.add_argument("--verbose", action="store_true", help="say which libraries and threads do the work")


def add_checkpoint(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT",
                        help="the checkpoint.safetensors of a run, or a published model")


def add_data_flags(parser):
    """What a trained model is compared with."""
    parser.add_argument("--dataset", metavar="NAME", help="images to compare with (default: the model's training data)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are (default: downloaded)")
    parser.add_argument("--inception", metavar="FILE",
                        help="features by these Inception-v3 weights, as safetensors (default: a small classifier's)")


def add_sampler_flags(parser):
    titles = "; ".join(f"{name}: {s.title}, {s.steps or 'all T'} steps" for name, s in SAMPLERS.items())
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddpm", help=f"{titles} (default ddpm)")
    parser.add_argument("--steps", type=int, metavar="K", help="of a sampler that can take fewer than T")
    for name, default in OPTIONS.items():
        whose = ", ".join(s.title for s in SAMPLERS.values() if name in s.options)
        parser.add_argument(f"--{name}", type=type(default), metavar="X", help=f"of {whose} (default {default})")


def sampler(args):
    """The sampler of the flags: the arguments of generate, and its name for what is printed."""
    chosen, steps = SAMPLERS[args.sampler], args.steps
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    wrong = [name for name in options if name not in chosen.options]
    if chosen.steps is None and steps is not None:
        wrong.append("steps")
    if wrong:
        raise ValueError(f"--{wrong[0]} does not belong to --sampler {args.sampler}, {chosen.title}: choose another")
    title = chosen.title if chosen.steps is None else f"{chosen.title} with {steps or chosen.steps} steps"
    title += "".join(f" and {name} {value}" for name, value in options.items() if value)
    return {"sampler": args.sampler, "steps": steps, **options}, title


def add_run_flags(parser, dataset):
    """The flags of a training program; `dataset` describes the choice."""
    add_backend_flags(parser)
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help=dataset)
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are (default: downloaded)")
    parser.add_argument("--out", metavar="DIR", help="where all files go (default: a new folder in runs/)")
    parser.add_argument("--resume", action="store_true",
                        help="go on with the run in --out (default: the newest in runs/ on that data set)")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything works")
    group = parser.add_argument_group("several GPUs or machines", "one process for each, with the same flags but "
                                      "--rank; torchrun, mpirun and srun say both numbers in the environment")
    group.add_argument("--world-size", type=int, metavar="N", help="how many processes share the run (default 1)")
    group.add_argument("--rank", type=int, metavar="R", help="which of them this is, 0 to N - 1; 0 writes all files")
    group.add_argument("--host", metavar="NAME", help="where rank 0 is (default: this machine)")
    group.add_argument("--port", type=int, metavar="P", help=f"at which it waits (default {rendezvous.PORT})")
    group = parser.add_argument_group("configuration", "each overrides a field of the preset")
    for config in CONFIGS:
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
    names = {f.name for config in CONFIGS for f in fields(config)} | {"dataset"}
    given = {name: value for name, value in vars(args).items() if name in names}
    if "steps" in given and "minutes" in given:
        raise ValueError("--steps and --minutes exclude each other")
    if "steps" in given:
        given["minutes"] = None
    return given


def prepare(args, preset, quick):
    """The run that the flags describe: its Trainer, data set and folder. quick: the fields that --quick changes."""
    given = overrides(args)
    if args.quick:
        given = quick | given
    ranks = rendezvous.ranks(os.environ, args.world_size, args.rank, args.host, args.port)
    active = use_backend(args)
    if on_gpu() and ranks.size > 1:
        state.xp.cuda.Device(ranks.local % state.xp.cuda.runtime.getDeviceCount()).use()
    trainer, dataset, folder = run.prepare(preset, given, ranks, tinyddpm.__version__, args.out, args.data_dir,
                                           args.resume)
    images = f"{len(dataset):,} images of {trainer.preset.dataset}"
    print(f"rank {ranks.rank} of {ranks.size}; {images}" if ranks.rank else
          f"{active}; {trainer.model.flat_values.size:,} parameters; {images}; files go to {folder}", flush=True)
    return trainer, dataset, folder


def use_backend(args):
    """Activate the backend and the operations of the flags. Returns a line that says which."""
    module = None
    if args.ops:
        path = Path(args.ops)
        if not path.is_file() or path.suffix != ".py":
            raise ValueError(f"--ops {path}: expected a .py file that exists")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:              # whatever is wrong with it, its author has to fix it
            raise ValueError(f"--ops {path} cannot be loaded: {type(error).__name__}: {error}") from None
    tinyddpm.use(args.backend, module, args.precision)
    if args.verbose:
        print(dispatch.describe(), file=sys.stderr)
    return (f"backend {state.backend}" + f" in {state.precision}" * (state.precision != "fp32")
            + f", with {', '.join(state.own)} of {args.ops}" * bool(args.ops))


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
