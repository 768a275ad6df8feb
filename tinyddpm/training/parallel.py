"""One run on several processes, GPUs or machines: each rank has its part of a batch, and the gradients are averaged.

A group has a rank, a size, and three calls: average, broadcast and close. `Alone` is a group of one, `Group` one of processes
that speak TCP with rank 0, `GpuGroup` one whose arrays travel by NCCL. Nothing that is received is ever run: what travels is
numbers, and one text.
"""

import json
import os
import socket
import struct
import sys
import threading
import time

import numpy as np

from tinyddpm.backend import state, to_numpy

CONNECT_SECONDS = 120               # for which a rank looks for rank 0, and rank 0 waits for all others
LONGEST_TEXT = 1_000_000
UNIQUE_ID = 128                     # numbers in NCCL's name for a group


class Alone:
    """The group of a run in one process."""

    rank, size = 0, 1

    def average(self, a):
        """Replace a, on every rank, by the mean of all ranks' a."""

    def broadcast(self, a):
        """Replace a, on every rank, by that of rank 0."""

    def close(self):
        """The end of the run: a rank that leaves later has failed."""


def share(group, text=None):
    """The text of rank 0, on every rank."""
    raw = (text or "").encode()
    length = np.array([len(raw)], np.float64)
    group.broadcast(length)
    buffer = np.frombuffer(raw, np.uint8).astype(np.float64) if group.rank == 0 else np.empty(int(length[0]))
    group.broadcast(buffer)
    return buffer.astype(np.uint8).tobytes().decode()


def join(size, rank, host, port, version):
    """The group of these processes, once all of them are there; rank 0 waits for the others at host and port.

    Raises ValueError where it cannot come about, and says on which rank what is wrong.
    """
    if size == 1:
        return Alone()
    kind = GpuGroup if state.backend == "cupy" else Group
    return kind(size, rank, host, port, {"version": version, "size": size, "backend": state.backend, "precision": state.precision})


class Group(Alone):
    """Processes that speak TCP: rank 0 has a connection to each of the others."""

    def __init__(self, size, rank, host, port, hello):
        self.rank, self.size = rank, size
        self.links = _gather(size, host, port, hello) if rank == 0 else {0: _connect(rank, host, port, hello)}

    def average(self, a):
        mine = np.ascontiguousarray(to_numpy(a))
        if self.rank == 0:
            total, other = mine.copy(), np.empty_like(mine)
            for rank in self.links:                             # in their order: every rank gets the same bits
                self._receive(rank, other)
                total += other
            total /= self.size
        else:
            self._send(0, mine)
            total = np.empty_like(mine)
        self._from_rank_0(total)
        a[...] = state.xp.asarray(total) if hasattr(a, "get") else total

    def broadcast(self, a):
        mine = np.ascontiguousarray(to_numpy(a))
        self._from_rank_0(mine)
        a[...] = state.xp.asarray(mine) if hasattr(a, "get") else mine

    def close(self):
        for link in self.links.values():
            link.close()

    def _from_rank_0(self, a):
        for rank in self.links:
            (self._send if self.rank == 0 else self._receive)(rank, a)

    def _send(self, rank, a):
        try:
            self.links[rank].sendall(memoryview(a).cast("B") if a.size else b"")
        except OSError as error:
            raise ValueError(self._gone(rank, error)) from None

    def _receive(self, rank, a):
        try:
            _receive_into(self.links[rank], memoryview(a).cast("B") if a.size else memoryview(bytearray()))
        except OSError as error:
            raise ValueError(self._gone(rank, error)) from None

    def _gone(self, rank, error):
        return f"rank {rank} is gone ({error}), so rank {self.rank} stops too: see what rank {rank} said; the last checkpoint stays"


class GpuGroup(Group):
    """GPUs whose arrays travel by NCCL. The TCP connections stay, to notice the end of a rank: NCCL would wait for it forever."""

    def __init__(self, size, rank, host, port, hello):
        super().__init__(size, rank, host, port, hello)
        from cupy.cuda import nccl

        if not nccl.available:
            raise ValueError("several GPUs need NCCL: pip install nvidia-nccl-cu12 (or nvidia-nccl-cu13)")
        self.nccl = nccl
        identity = np.array(list(nccl.get_unique_id()) if rank == 0 else [0] * UNIQUE_ID)
        super().broadcast(identity)
        self.closing = False
        for other, link in self.links.items():
            threading.Thread(target=self._watch, args=(other, link), daemon=True).start()
        kind = bytes if int(state.xp.__version__.split(".")[0]) >= 14 else tuple
        try:
            self.communicator = nccl.NcclCommunicator(size, kind(identity.tolist()), rank)
        except RuntimeError as error:
            raise ValueError(f"NCCL refuses: {error}; each process needs a GPU of its own") from None

    def average(self, a):
        on_gpu = state.xp.asarray(a)
        self.communicator.allReduce(on_gpu.data.ptr, on_gpu.data.ptr, on_gpu.size, self._type(a), self.nccl.NCCL_SUM, self._stream())
        on_gpu /= self.size
        if not hasattr(a, "get"):
            a[...] = to_numpy(on_gpu)

    def broadcast(self, a):
        on_gpu = state.xp.asarray(a)
        self.communicator.bcast(on_gpu.data.ptr, on_gpu.size, self._type(a), 0, self._stream())
        if not hasattr(a, "get"):
            a[...] = to_numpy(on_gpu)

    def close(self):
        self.closing = True
        state.xp.cuda.get_current_stream().synchronize()
        self.communicator.destroy()                     # all ranks together
        for link in self.links.values():
            link.sendall(b".")
            link.close()

    def _type(self, a):
        return {"float32": self.nccl.NCCL_FLOAT32, "float64": self.nccl.NCCL_FLOAT64}[a.dtype.name]

    def _stream(self):
        return state.xp.cuda.get_current_stream().ptr

    def _watch(self, rank, link):
        try:
            last = link.recv(1)
        except OSError:
            last = b""
        if not last and not self.closing:
            print(f"\nerror: {self._gone(rank, 'its connection ended')}", file=sys.stderr, flush=True)
            os._exit(2)


# ---- how the ranks find each other ----

def _gather(size, host, port, hello):
    """On rank 0: the connections of ranks 1..size - 1. Who does not fit is told why, and waited for again."""
    try:
        server = socket.create_server((host, port), backlog=size)
    except OSError as error:
        raise ValueError(f"rank 0 cannot listen at {host}:{port}: {error.strerror or error}") from None
    links, deadline = {}, time.monotonic() + CONNECT_SECONDS
    with server:
        while len(links) < size - 1:
            missing = [rank for rank in range(1, size) if rank not in links]
            print(f"waiting at {host}:{port} for rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}", file=sys.stderr, flush=True)
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link, _ = server.accept()
                link.settimeout(10)
                theirs = json.loads(_receive_text(link))
                rank = theirs.pop("rank")
                problem = (f"it is rank {rank}, and {'that is there already' if rank in links else f'there are 0 to {size - 1}'}"
                           if rank not in missing else f"it has {theirs}, rank 0 has {hello}" if theirs != hello else "")
                _send_text(link, problem)
            except TimeoutError:
                raise ValueError(f"rank {', '.join(map(str, missing))} did not come within {CONNECT_SECONDS} seconds") from None
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue                                        # not a rank of ours
            if problem:
                print(f"refused a process: {problem}", file=sys.stderr, flush=True)
                link.close()
            else:
                link.settimeout(None)
                links[rank] = link
    return dict(sorted(links.items()))


def _connect(rank, host, port, hello):
    """On every other rank: the connection to rank 0."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            link = socket.create_connection((host, port), timeout=10)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"no rank 0 at {host}:{port}: {error.strerror or error}") from None
            time.sleep(0.2)
    try:
        _send_text(link, json.dumps(hello | {"rank": rank}))
        link.settimeout(CONNECT_SECONDS)
        problem = _receive_text(link)
    except OSError as error:
        raise ValueError(f"{host}:{port} does not answer as rank 0 does: {error}") from None
    if problem:
        raise ValueError(f"rank 0 refused this process: {problem}")
    link.settimeout(None)
    return link


def _send_text(link, text):
    raw = text.encode()
    link.sendall(struct.pack("<Q", len(raw)) + raw)


def _receive_text(link):
    header = bytearray(8)
    _receive_into(link, memoryview(header))
    length = struct.unpack("<Q", header)[0]
    if length > LONGEST_TEXT:
        raise ConnectionError("what it sends is no text of ours")
    raw = bytearray(length)
    _receive_into(link, memoryview(raw))
    return raw.decode()


def _receive_into(link, view):
    while view:
        count = link.recv_into(view)
        if count == 0:
            raise ConnectionError("its connection ended")
        view = view[count:]
