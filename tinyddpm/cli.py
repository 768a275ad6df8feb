"""Shared by the programs in examples/: flags, the choice of backend, and one-line error messages."""

import argparse
import importlib.util
import math
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import tinyddpm
from tinyddpm import dispatch, nn, presets
from tinyddpm.backend import on_gpu, state
from tinyddpm.diffusion.config import CHOICES, DiffusionConfig
from tinyddpm.data.folder import SUFFIXES
from tinyddpm.presets import TrainingConfig
from tinyddpm.progress import Output
from tinyddpm.sampling.config import SamplingConfig
from tinyddpm.sampling.samplers import SAMPLERS, SPACINGS
from tinyddpm.training import load_model, rendezvous, run
from tinyddpm.training.checkpoint import PRETRAINED

CONFIGS = (TrainingConfig, DiffusionConfig, SamplingConfig,
           *(config for config, _ in nn.NETWORKS.values() if hasattr(config, "image_size")))
HELP = {  # texts for the flags that set a preset's fields; the comments on the fields say more
    "steps": "training steps", "minutes": "training time, instead of a number of steps",
    "batch_size": "images per step", "lr": "learning rate", "seed": "seed of all random numbers",
    "attention_resolutions": "such as 16 or 16,8, or none",
    "channel_multipliers": "such as 1,2,2,2: one for each resolution",
    "num_classes": "learn the labels of the data, or none (default: what the data have, in mnist and cifar10-small)",
    "sampler": f"of the samples, now and from the checkpoint: {', '.join(SAMPLERS)}",
    "sampling_steps": "of that sampler", "spacing": f"of its times: {', '.join(SPACINGS)}",
    "guidance": "of samples of a model with classes: see sample.py --help",
    **{name: ", ".join(choices) for name, choices in CHOICES.items()}}

MODELS = ", ".join(["the checkpoint.safetensors of a run", *(name for name in PRETRAINED if name != "masks"),
                    "or a published model"])
Lines = argparse.RawDescriptionHelpFormatter         # keeps the lines of an epilog


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line and accepts neither abbreviated flags nor empty values."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args=None):
        found = super().parse_args(args)
        for name, value in vars(found).items():
            if value == "":
                self.error(f"--{name.replace('_', '-')} is empty")
        return found

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def at_least(least, kind=int):
    """The type of a flag whose value is a number of this kind, `least` or more, and finite."""
    def number(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: expected at least {least}" + " and finite" * (kind is float))
        return value

    return number


def require_writable(parser, args, out, *suffixes):
    """Return the file `out` as a Path. Exit early with an error if it cannot be written, or is one that is read."""
    path = Path(out)
    if path.is_dir() or not path.resolve().parent.is_dir():
        parser.error(f"--out {out}: expected a file in an existing folder")
    if path.suffix not in suffixes:
        parser.error(f"--out {out}: expected a name ending in {' or '.join(suffixes)}")
    for flag in ("checkpoint", "samples", "inception", "ops", "dataset", "images"):
        read = Path(getattr(args, flag, None) or os.devnull)
        image = flag in ("dataset", "images") and path.suffix in SUFFIXES and read.resolve() in path.resolve().parents
        if path.exists() and (image or read.is_file() and path.samefile(read)):
            parser.error(f"--out {out}: this file is an input ({flag}): choose another name")
    return path


def refuse(parser, args, flags, what):
    """Exit with an error if one of the flags was given: they do not belong to `what`."""
    for flag in flags:
        if getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} does not belong to {what}")


def add_backend_flags(parser):
    parser.add_argument("--backend", default="auto", choices=(*dispatch.BACKENDS, "auto"),
                        help="auto: numba if it is installed")
    parser.add_argument("--precision", default="fp32", choices=dispatch.PRECISIONS,
                        help="of the arrays within the U-Net, and of matrix products, on a GPU (default fp32)")
    parser.add_argument("--ops", metavar="FILE", help="a Python file whose operations replace those of the same name")
    parser.add_argument("--verbose", action="store_true", help="print the libraries and the threads or GPU in use")


def add_checkpoint(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=MODELS)


def add_data_dir(parser):
    parser.add_argument("--data-dir", metavar="DIR",
                        help="where the files of the data set are (default: downloaded)")


def add_data_flags(parser):
    """Add the flags for what a trained model is compared with."""
    parser.add_argument("--dataset", metavar="NAME",
                        help="images to compare with (default: the model's training data)")
    add_data_dir(parser)
    parser.add_argument("--inception", metavar="FILE",
                        help="Inception-v3 weights for the features, as safetensors (default: a small classifier)")


def add_run_flags(parser, dataset):
    """Add the flags of a training program; `dataset` is the help text of --dataset."""
    add_backend_flags(parser)
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help=dataset)
    add_data_dir(parser)
    parser.add_argument("--out", metavar="DIR", help="folder for all files (default: a new one in runs/)")
    parser.add_argument("--resume", action="store_true",
                        help="continue the run in --out (default: the newest on that data set in runs/)")
    parser.add_argument("--from", dest="start", metavar="MODEL",
                        help=f"begin with the weights and the configuration of a trained model: {MODELS}")
    parser.add_argument("--quick", action="store_true", help="take only a few steps, to check that everything works")
    group = parser.add_argument_group("several GPUs or machines", "one process for each, with the same flags except "
                                      "--rank; torchrun, mpirun and srun set both in the environment")
    group.add_argument("--world-size", type=int, metavar="N", help="how many processes share the run (default 1)")
    group.add_argument("--rank", type=int, metavar="R", help="number of this process, 0 to N - 1; 0 writes all files")
    group.add_argument("--host", metavar="NAME", help="address of rank 0 (default: $MASTER_ADDR, or this machine)")
    group.add_argument("--port", type=int, metavar="P", help=f"port at which rank 0 waits (default {rendezvous.PORT})")
    group.add_argument("--timeout", type=at_least(1, float), metavar="S", default=rendezvous.TIMEOUT,
                       help="seconds that a rank may be silent, samples and checkpoints included (default %(default)s)")
    group = parser.add_argument_group("configuration", "each overrides a field of the preset")
    for name, kind in settings().items():
        options = {"default": argparse.SUPPRESS, "help": HELP.get(name)}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"], one = _reader(kind), getattr(kind, "__args__", [kind])[0]
            options["metavar"] = "N,N,..." if kind == tuple[int, ...] else {int: "N", float: "X", str: "NAME"}[one]
        group.add_argument("--" + name.replace("_", "-"), **options)


def settings():
    """The fields of a preset's parts by the names that Preset.override knows: name -> type. Networks share some."""
    return {"sampling_steps" if (config, f.name) == (SamplingConfig, "steps") else f.name: f.type
            for config in CONFIGS for f in fields(config) if f.name != "learned_variance"}   # follows from the variance


def _reader(kind):
    """What reads the text of a flag for a field of this type; `none` stands for None, or for an empty list."""
    if kind in (int, float, str):
        return kind
    name, read, nothing = kind.__args__[0].__name__, kind.__args__[0], None
    if kind == tuple[int, ...]:
        name, read, nothing = "list of integers", lambda text: tuple(int(n) for n in text.split(",")), ()

    def value(text):
        return nothing if text == "none" else read(text)

    value.__name__ = name               # for argparse's message
    return value


def overrides(args):
    """The fields that were given as flags: name -> value."""
    names = settings().keys() | {"dataset"}
    given = {name: value for name, value in vars(args).items() if name in names}
    if "steps" in given and "minutes" in given:
        raise ValueError("--steps and --minutes exclude each other")
    if "steps" in given:
        given["minutes"] = None
    return given


def prepare(args, preset, quick):
    """Prepare the run that the flags describe: Trainer, data set and folder. quick: the fields that --quick changes."""
    given = overrides(args)
    if args.quick:
        given = quick | given
    ranks = rendezvous.ranks(os.environ, args.world_size, args.rank, args.host, args.port, args.timeout)
    if args.start and args.resume:
        raise ValueError("--from and --resume exclude each other")
    active = use_backend(args, ranks)
    start = load_model(args.start) if args.start and not ranks.rank else None
    if start:
        preset = replace(start[1], training=presets.PRESETS.get(start[1].name, start[1]).training)
    trainer, dataset, folder = run.prepare(preset, given, ranks, tinyddpm.__version__, args.out, args.data_dir,
                                           args.resume, start)
    classes = trainer.preset.model.num_classes
    images = f"{len(dataset):,} images of {trainer.preset.dataset}" + f" in {classes} classes" * (classes is not None)
    print(f"rank {ranks.rank} of {ranks.size}; {images}" if ranks.rank else
          f"{active}; {trainer.model.flat_values.size:,} parameters; {images}; files go to {folder}", flush=True)
    return trainer, dataset, folder


def use_backend(args, ranks=rendezvous.Ranks()):
    """Activate the backend and the operations that the flags choose. Returns a line that describes them."""
    module = None
    if args.ops:
        path = Path(args.ops)
        if not path.is_file() or path.suffix != ".py":
            raise ValueError(f"--ops {path}: expected an existing .py file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:            # any error in the file is for its author to fix
            raise ValueError(f"--ops {path} cannot be loaded: {type(error).__name__}: {error}") from None
    tinyddpm.use(args.backend, module, args.precision)
    if on_gpu() and ranks.size > 1:
        state.xp.cuda.Device(ranks.local % state.xp.cuda.runtime.getDeviceCount()).use()
    if args.verbose:
        print(dispatch.describe(), file=sys.stderr)
    return (f"backend {state.backend}" + f" in {state.precision}" * (state.precision != "fp32")
            + f", with {', '.join(state.own)} of {args.ops}" * bool(args.ops))


def program(main):
    """Run main(argv) and exit. An error prints one line on stderr and exits with status 2, Ctrl-C with status 130."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):           # not redirected within Python
            setattr(sys, name, Output(getattr(sys, name)))
    try:
        status = main(sys.argv[1:])
    except (ValueError, OSError, MemoryError, OverflowError) as error:
        print(f"\n{Path(sys.argv[0]).name}: error: {describe(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        status = 130
    sys.exit(status)


def describe(error):
    """Describe an error in one line; for an operating-system error, say what failed and on which file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}): choose a smaller batch, count or model"
    return " ".join(str(error).split())
