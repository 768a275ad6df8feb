"""One run on several processes, GPUs or machines: each rank has its part of a batch, and the gradients are averaged.

A group has a rank, a size, the text of rank 0, and three calls: average, broadcast and close. `Alone` is a group of
one, `Group` one of processes that talk to rank 0 over TCP, `GpuGroup` one that exchanges arrays with NCCL. Nothing that
is received is ever executed: only numbers, and one text, are sent.
"""

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np

from tinyddpm.backend import on_gpu, state, to_numpy
from tinyddpm.training import rendezvous

UNIQUE_ID = 128                     # numbers in NCCL's name for a group
ALIVE, END = b"+", b"."             # what the ranks of a GpuGroup send over TCP


class Alone:
    """The group of a run in one process."""

    rank, size, text = 0, 1, ""

    def average(self, a):
        """Replace a, on every rank, by the mean of all ranks' a."""

    def broadcast(self, a):
        """Replace a, on every rank, by that of rank 0."""

    def close(self):
        """End the run: a rank that leaves without this call has failed."""


def join(ranks, version, text=""):
    """The group of these processes, once all are connected; rank 0 waits for the others.

    text: what rank 0 sends to all others, the group's `text`
    Raises ValueError if the group cannot be formed, with the rank and the reason.
    """
    if ranks.size == 1:
        return Alone()
    kind, same = GpuGroup if on_gpu() else Group, {"backend": state.backend, "precision": state.precision}
    return kind(ranks, {"version": version, "size": ranks.size, **same}, text)


class Group(Alone):
    """Processes that communicate over TCP: rank 0 has a connection to each of the others."""

    def __init__(self, ranks, hello, text):
        self.rank, self.size, self.timeout = ranks.rank, ranks.size, ranks.timeout
        self.links, self.text = rendezvous.meet(ranks, hello, text)

    def average(self, a):
        mine = np.ascontiguousarray(to_numpy(a))
        if self.rank == 0:
            total, other = mine.copy(), np.empty_like(mine)
            for rank in self.links:                             # in order of rank, so that the sum is reproducible
                self._receive(rank, other)
                total += other
            total /= self.size
        else:
            self._send(0, mine)
            total = np.empty_like(mine)
        self._from_rank_0(total)
        a[...] = state.xp.asarray(total) if on_gpu(a) else total

    def broadcast(self, a):
        mine = np.ascontiguousarray(to_numpy(a))
        self._from_rank_0(mine)
        a[...] = state.xp.asarray(mine) if on_gpu(a) else mine

    def close(self):
        for link in self.links.values():
            link.close()

    def _from_rank_0(self, a):
        for rank in self.links:
            (self._send if self.rank == 0 else self._receive)(rank, a)

    def _send(self, rank, a):
        with self._link(rank) as link:
            link.sendall(memoryview(a).cast("B"))

    def _receive(self, rank, a):
        with self._link(rank) as link:
            rendezvous.receive_into(link, memoryview(a).cast("B"))

    @contextmanager
    def _link(self, rank):
        """The connection to a rank; if it fails, the error names the rank."""
        try:
            yield self.links[rank]
        except TimeoutError:
            raise ValueError(self._gone(rank, f"silent for {self.timeout:g} seconds, see --timeout")) from None
        except OSError as error:
            raise ValueError(self._gone(rank, error)) from None

    def _gone(self, rank, error):
        return f"rank {rank} is gone ({error}), so rank {self.rank} stops too: see the error of rank {rank}"


class GpuGroup(Group):
    """GPUs that exchange arrays with NCCL. It would wait forever for a dead or frozen rank, which the TCP connections
    detect: over them each rank says now and then that it is alive."""

    def __init__(self, ranks, hello, text):
        super().__init__(ranks, hello, text)
        from cupy.cuda import nccl

        if not nccl.available:
            raise ValueError("several GPUs need NCCL: pip install nvidia-nccl-cu12 (or nvidia-nccl-cu13)")
        self.nccl = nccl
        identity = np.array(list(nccl.get_unique_id()) if self.rank == 0 else [0] * UNIQUE_ID)
        super().broadcast(identity)
        self.closing = False
        self.watchers = [self._thread(self._watch, *pair) for pair in self.links.items()]
        for pair in self.links.items():
            self._thread(self._say_alive, *pair)
        kind = bytes if int(state.xp.__version__.split(".")[0]) >= 14 else tuple
        try:
            self.communicator = nccl.NcclCommunicator(self.size, kind(identity.tolist()), self.rank)
        except RuntimeError as error:
            raise ValueError(f"NCCL failed: {error}; each process needs a GPU of its own") from None

    def average(self, a):
        there = state.xp.asarray(a)
        pointer = there.data.ptr
        self.communicator.allReduce(pointer, pointer, there.size, self._type(a), self.nccl.NCCL_SUM, self._stream())
        there /= self.size
        if not on_gpu(a):
            a[...] = to_numpy(there)

    def broadcast(self, a):
        there = state.xp.asarray(a)
        self.communicator.bcast(there.data.ptr, there.size, self._type(a), 0, self._stream())
        if not on_gpu(a):
            a[...] = to_numpy(there)

    def close(self):
        self.closing = True
        state.xp.cuda.get_current_stream().synchronize()
        self.communicator.destroy()                     # all ranks together
        for link in self.links.values():
            with suppress(OSError):
                link.sendall(END)
        for watcher in self.watchers:                   # until the other END: a link closed before that is a failure
            watcher.join(self.timeout)
        super().close()

    def _thread(self, target, rank, link):
        thread = threading.Thread(target=target, args=(rank, link), daemon=True)
        thread.start()
        return thread

    def _type(self, a):
        return {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}[a.dtype.name]

    def _stream(self):
        return state.xp.cuda.get_current_stream().ptr

    def _watch(self, rank, link):
        try:
            while (last := link.recv(1)) == ALIVE:
                pass
        except OSError:
            last = b""
        if not last and not self.closing:
            print(f"\nerror: {self._gone(rank, 'its connection ended or is silent')}", file=sys.stderr, flush=True)
            os._exit(2)

    def _say_alive(self, rank, link):
        with suppress(OSError):                         # which _watch notices
            while not self.closing:
                link.sendall(ALIVE)
                time.sleep(self.timeout / 10)
