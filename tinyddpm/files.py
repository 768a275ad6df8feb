"""Files that anybody may have made: what is read is checked, and what is written takes effect as a whole."""

import gzip
import json
import math
import os
import stat
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def parsing(path, expected):
    """Within the block, any error raises ValueError: the file at path is not what was expected.

    Parsers raise errors of all kinds for damaged files. A lack of memory and errors of the operating system remain what
    they are.
    """
    try:
        yield
    except Exception as error:
        # Python's own parser says MemoryError, without a text, of what is nested too deeply.
        if isinstance(error, MemoryError) and error.args or isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path} is damaged or not {expected}: {error or type(error).__name__}") from None


@contextmanager
def opened(path, expected, largest=math.inf):
    """The file at path, open to read its bytes within the block, where any error is one of `parsing`.

    Raises ValueError for more than `largest` bytes, and for what may never end, such as a named pipe.
    """
    found = os.stat(path)
    with parsing(path, expected):
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a file")
        if found.st_size > largest:
            raise ValueError(f"it has {found.st_size:,} bytes; expected at most {largest:,}")
        with open(path, "rb") as file:
            yield file


def read(path, expected, largest):
    """The bytes of the file at path; the rest as in `opened`."""
    with opened(path, expected, largest) as file:
        return file.read()


def parse_json(text):
    """The value of a JSON text. Raises ValueError for other texts, and if it is nested too deeply or repeats a key."""
    def unique(pairs):
        if len(table := dict(pairs)) < len(pairs):
            raise ValueError("a key appears twice")
        return table

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def unzipped(file, largest):
    """The content of an open gzip file. Raises ValueError if that is larger, and other errors if it is damaged."""
    content = gzip.GzipFile(fileobj=file).read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it unpacks to more than {largest:,} bytes")
    return content


@contextmanager
def replacing(path, mode="wb", **options):
    """A new file for the block to write. It takes the place of the old one only when it is complete and on the disk."""
    part = Path(f"{path}.part")
    try:
        with open(part, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def lock(path, problem):
    """Lock the file at path until the file that is returned is closed or the process ends.

    Raises ValueError, with the text `problem`, if another process has locked it.
    """
    file = open(path, "ab")
    try:
        if os.name == "nt":
            import msvcrt
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ValueError(problem) from None
    except OSError:                                             # a file system without locks
        pass
    return file
