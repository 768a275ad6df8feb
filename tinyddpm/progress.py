"""What a program prints: its streams, and a progress line that is rewritten in place on a terminal."""

import os
import sys
import time

QUIET_SECONDS = 20      # between lines where the output is not a terminal


class Output:
    """A text stream that drops what it cannot write: its reader is gone, or its disk is full. The program goes on."""

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")           # None: it was closed from the start
        self.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            self.stream = open(os.devnull, "w")
        return len(text)

    def flush(self):
        self.write("")


class Progress:
    """A line that is rewritten in place on a terminal; elsewhere a new one now and then.

    show() may be called as often as you like: it writes ten times a second at most.
    """

    def __init__(self):
        self.live = sys.stderr.isatty()
        self.last, self.started, self.counted = -1e9, None, 0

    def show(self, text, always=False):
        now = time.monotonic()
        if always or now - self.last >= (0.1 if self.live else QUIET_SECONDS):
            print("\r\x1b[2K" + text if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)
            self.last = now

    def count(self, what, number, total):
        """Show `what: number of total`, with the time left; total may be None. It can count several things in turn."""
        now = time.monotonic()
        if number <= self.counted:
            self.started = None
        if self.started is None:
            self.started, self.counted = (number, now), 0
        first, since = self.started
        of = f" of {total:,}" if total else ""
        if total and number > first:
            of += f"  {duration((now - since) / (number - first) * (total - number))} left"
        self.counted = number
        self.show(f"{what}: {number:,}{of}", always=number == total)

    def close(self):
        """End the progress line, so that later output starts on a new line."""
        if self.live and self.last > 0:
            print(file=sys.stderr)
        self.last = -1e9


def duration(seconds):
    """Seconds as text: 5:07, or with hours 2:05:07."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
