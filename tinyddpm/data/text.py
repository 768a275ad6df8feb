"""A text as a data set: windows of letters, each as a code."""

import numpy as np

from tinyddpm import files

LARGEST, LETTERS = 10**8, 200       # bytes of a file, and different letters
TEST = 10                           # one part of so many, the last, is for testing


def load(path, length, split="train", alphabet=None):
    """The windows (N, length) uint8 of a UTF-8 text that begin at each of its letters, and its alphabet, sorted.

    split: "train", or "test" for the last tenth; alphabet: that of a model, which the text must not exceed
    Raises ValueError for a file that is not such a text, too short, or with more than 200 different letters.
    """
    with files.opened(path, "a text in UTF-8", LARGEST) as file:
        text = file.read().decode("utf-8").replace("\r\n", "\n")
        found = "".join(sorted(set(text)))
        if alphabet is None and not 2 <= len(found) <= LETTERS:
            raise ValueError(f"it has {len(found)} different letters; expected 2 to {LETTERS}")
        if unknown := set(found) - set(alphabet or found):
            raise ValueError(f"the model does not know its letters {''.join(sorted(unknown))!r}")
        alphabet = alphabet or found
        cut = len(text) - len(text) // TEST
        text = text[:cut] if split == "train" else text[cut:]
        if len(text) < length:
            raise ValueError(f"its part for the {split} split has {len(text):,} letters; expected at least {length}")
    code = {letter: i for i, letter in enumerate(alphabet)}
    codes = np.array([code[letter] for letter in text], np.uint8)
    return np.lib.stride_tricks.sliding_window_view(codes, length), alphabet
