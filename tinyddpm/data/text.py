"""A text as a data set: windows of letters, each as a code."""

import numpy as np

from tinyddpm import files

LARGEST, LETTERS = 10**8, 200       # bytes of a file, and different letters
TEST = 10                           # one part of so many, the last, is for testing


class Windows:
    """All windows (N, length) of codes (L,) uint8, one from each position on: what an index chooses is copied."""

    def __init__(self, codes, length):
        self.codes, self.shape = codes, (len(codes) - length + 1, length)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, chosen):
        """The windows that begin at the positions `chosen` (N,)."""
        return self.codes[np.asarray(chosen)[:, None] + np.arange(self.shape[1])]


def load(path, length, split="train", alphabet=None):
    """The Windows of a UTF-8 text, and its alphabet, sorted.

    split: "train", or "test" for the last tenth; alphabet: that of a model, which the text must not exceed
    Raises ValueError for a file that is not such a text, too short, or with more than 200 different letters.
    """
    with files.opened(path, "a text in UTF-8", LARGEST) as file:
        text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    found = "".join(sorted(set(text)))
    if alphabet is None and not 2 <= len(found) <= LETTERS:
        raise ValueError(f"{path} has {len(found)} different letters; expected 2 to {LETTERS}")
    alphabet = alphabet or found
    if unknown := set(found) - set(alphabet):
        raise ValueError(f"{path} has letters that the model does not know: {''.join(sorted(unknown))!r}")
    cut = len(text) - len(text) // TEST
    text = text[:cut] if split == "train" else text[cut:]
    if len(text) < length:
        raise ValueError(f"{path} is too short: its part to {split} has {len(text):,} letters; expected {length} or "
                         "more")
    code = {letter: i for i, letter in enumerate(alphabet)}
    return Windows(np.array([code[letter] for letter in text], np.uint8), length), alphabet
