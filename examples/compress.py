"""Compress images without loss by a trained model, and restore them: fewer bits than PNG, and a slow network each time.

    python examples/compress.py mnist-eps encode digits.npy digits.ddpm
    python examples/compress.py mnist-eps decode digits.ddpm again.npy

The images: a .npy file, a PNG, or a folder of them. A file decodes with the same model, backend and kind of machine.
"""

import bz2
import gzip
import io
import lzma

import numpy as np

from tinyddpm import cli, codec, data, files
from tinyddpm.progress import Progress
from tinyddpm.training import load_model


def main(argv):
    parser = cli.Parser(description=__doc__.split("\n")[0])
    cli.add_checkpoint(parser)
    parser.add_argument("what", choices=("encode", "decode"))
    parser.add_argument("input", metavar="IN", help="images, or the file that they became")
    parser.add_argument("out", metavar="OUT", help=".ddpm; of decode .npy")
    parser.add_argument("--steps", type=cli.at_least(2), default=100, metavar="T",
                        help="of encode: the times t that are used; more are slower, and fewer bits (default 100)")
    parser.add_argument("--lanes", type=cli.at_least(1), default=32, metavar="N",
                        help="of encode: images beside each other; more are faster, and cost more bits (default 32)")
    cli.add_backend_flags(parser)
    args = parser.parse_args(argv)
    out = cli.require_writable(parser, args, args.out, ".npy" if args.what == "decode" else ".ddpm")
    cli.use_backend(args)
    model, preset = load_model(args.checkpoint)
    progress = Progress()
    watch = lambda done, total: progress.count("images", done, total)
    if args.what == "decode":
        images = codec.decompress(args.input, model, preset, watch)
        with files.replacing(out) as file:
            np.save(file, images)
        progress.close()
        print(f"{len(images):,} images in {out}")
        return 0
    images = data.read_images(args.input, preset.model)[:]
    borrowed = codec.compress(out, model, preset, images, min(args.steps, preset.diffusion.T), args.lanes, watch)
    progress.close()
    report(images, out, borrowed)
    return 0


def report(images, out, borrowed):
    """The sizes of the images: as they are, by formats that everybody has, and here."""
    size, raw = out.stat().st_size, images.tobytes()
    sizes = {"bytes": len(raw), "PNG": sum(map(png, images)), "gzip": len(gzip.compress(raw, 9)),
             "bz2": len(bz2.compress(raw)), "lzma": len(lzma.compress(raw)), "here": size,
             "here, less the borrowed bits": size - borrowed // 8}
    print(f"{len(images):,} images in {out}; bytes, bits/dim:")
    for name, count in sizes.items():
        print(f"  {name:30}{count:12,}{8 * count / images.size:9.3f}")


def png(image):
    """The bytes of an image as PNG."""
    from PIL import Image                           # installed with matplotlib

    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, format="PNG", optimize=True)
    return len(file.getvalue())


if __name__ == "__main__":
    cli.program(main)
