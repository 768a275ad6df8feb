"""Files from the network: mirrors, checksums, and downloads that can be interrupted and resumed."""

import hashlib
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tinyddpm.progress import Progress

TIMEOUT = 20        # seconds without a byte
BLOCK = 1 << 16


def cache_folder():
    """The folder for downloads: $TINYDDPM_CACHE, else tinyddpm in the user's cache folder, or in a temporary one."""
    own, common = os.environ.get("TINYDDPM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(own) if own else Path(common or Path.home() / ".cache") / "tinyddpm"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        folder = Path(tempfile.gettempdir()) / "tinyddpm"
        print(f"downloads go to {folder} ({error}): set TINYDDPM_CACHE to a folder that lasts", file=sys.stderr)
    return folder


def fetch(name, mirrors, accept, folder):
    """The path of folder/name, downloaded from the first mirror that serves what is expected.

    mirrors: URLs of folders; accept(bytes) raises ValueError for content that is not what is expected
    An interrupted download continues where it stopped. Raises ValueError if no mirror could serve the file.
    """
    path = Path(folder) / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, failures = path.with_name(name + ".part"), []
    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + name
        try:
            _download(url, partial)
            accept(partial.read_bytes())
        except (OSError, urllib.error.URLError, ValueError) as error:
            failures.append(f"{url}: {error}")
            if isinstance(error, ValueError):           # complete, but not the file: do not continue from it
                partial.unlink()
            continue
        os.replace(partial, path)
        return path
    raise ValueError(f"{name} could not be downloaded; download it by hand and give its folder with --data-dir, "
                     f"or start again to continue. Tried {'; '.join(failures)}")


def _download(url, partial):
    """Append what is missing of url to the file `partial`, with a progress line."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:                   # nothing is missing
            return
        raise
    with response:
        if response.status != 206:                       # the server sends the whole file again
            have = 0
        total, progress = have + int(response.headers.get("Content-Length", 0)), Progress()
        with open(partial, "ab" if have else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                progress.show(f"{url}  {have / 1e6:.1f} of {total / 1e6:.1f} MB")
    progress.close()
    if have < total:
        raise OSError(f"the connection closed after {have} of {total} bytes")


def md5(data):
    """The checksum that data sets are published with (against damage, not against malice)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
