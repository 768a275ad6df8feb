"""How the processes of one run connect over TCP, as given by flags or by the environment of a launcher."""

import json
import socket
import struct
import sys
import time
from collections import namedtuple

from tinyddpm.files import parse_json

HOST, PORT = "127.0.0.1", 29471
CONNECT_SECONDS = 120               # how long a rank tries to reach rank 0, and rank 0 waits for all others
HELLO_SECONDS = 5                   # how long a process that has connected to rank 0 may take to say who it is
TIMEOUT = 1800.0                    # seconds that a rank may be silent during a run
LONGEST_TEXT = 1_000_000

# What launchers tell each process: the number of ranks, its rank, and its rank on its machine.
LAUNCHERS = (("WORLD_SIZE", "RANK", "LOCAL_RANK"),                                          # torchrun, Kubernetes
             ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
             ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"))

Ranks = namedtuple("Ranks", "size rank local host port timeout", defaults=(1, 0, 0, HOST, PORT, TIMEOUT))
Ranks.__doc__ = """The number of processes, the rank of this one (local: on its machine), where rank 0 waits, and the
seconds after which a silent rank counts as gone."""


def ranks(environment, size=None, rank=None, host=None, port=None, timeout=TIMEOUT):
    """The Ranks given by flags (None: not given) or, in their absence, by the environment of a launcher.

    Raises ValueError for a rank that is not one of 0 to size - 1, for an impossible port, and for an environment that
    holds no numbers.
    """
    def number(name, default=None):
        try:
            return int(environment.get(name, default))
        except ValueError:
            raise ValueError(f"the environment has {name}={environment[name]!r}; expected a number") from None

    names = next((names for names in LAUNCHERS if {*names[:2]} <= environment.keys()), None)
    if names:
        size = number(names[0]) if size is None else size
        local = number(names[2], number(names[1])) if rank is None else rank
        rank = number(names[1]) if rank is None else rank
    else:
        size, rank = 1 if size is None else size, rank or 0
        local = rank
    if not 0 <= rank < size:
        raise ValueError(f"--rank {rank} --world-size {size}: expected a rank from 0 to world size - 1")
    if port is None:
        # torchrun itself listens at MASTER_PORT, unless told not to.
        port = number("MASTER_PORT", PORT) + (environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True")
    if not 0 < port < 2**16:
        raise ValueError(f"--port {port}: expected 1 to 65535")
    return Ranks(size, rank, local, host or environment.get("MASTER_ADDR", HOST), port, timeout)


def meet(ranks, hello, text):
    """The connections of this rank, {rank: socket}, and the text of rank 0."""
    if ranks.rank == 0:
        links = _gather(ranks.size, ranks.host, ranks.port, hello, text)
    else:
        link, text = _connect(ranks.rank, ranks.host, ranks.port, hello)
        links = {0: link}
    for link in links.values():
        link.settimeout(ranks.timeout)
    return links, text


def _gather(size, host, port, hello, text):
    """On rank 0: the connections to ranks 1..size - 1. A process that does not match is refused and told why."""
    try:
        server = socket.create_server((host, port), backlog=size)
    except OSError as error:
        raise ValueError(f"rank 0 cannot listen at {host}:{port}: {error.strerror or error}") from None
    links, deadline = {}, time.monotonic() + CONNECT_SECONDS
    with server:
        while len(links) < size - 1:
            missing = [rank for rank in range(1, size) if rank not in links]
            print(f"waiting at {host}:{port} for rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}",
                  file=sys.stderr, flush=True)
            try:
                server.settimeout(_left(deadline))
                link, _ = server.accept()
            except TimeoutError:
                late = ", ".join(map(str, missing))
                raise ValueError(f"rank {late} did not come within {CONNECT_SECONDS} seconds") from None
            try:
                theirs = parse_json(_receive_text(link, HELLO_SECONDS))
                rank = theirs.pop("rank")
                problem = ""
                if type(rank) is not int or rank not in missing:
                    known = "that is there already" if rank in links else f"there are 0 to {size - 1}"
                    problem = f"it is rank {rank!r}, and {known}"
                elif theirs != hello:
                    problem = f"it has {theirs}, rank 0 has {hello}"
                _send_text(link, json.dumps({"problem": problem, "text": "" if problem else text}))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                link.close()                                    # not one of our ranks
                continue
            if problem:
                print(f"refused a process: {problem}", file=sys.stderr, flush=True)
                link.close()
            else:
                links[rank] = link
    return dict(sorted(links.items()))


def _connect(rank, host, port, hello):
    """On every other rank: the connection to rank 0, and its text."""
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
        reply = parse_json(_receive_text(link, CONNECT_SECONDS))
        problem, text = reply["problem"], reply["text"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{host}:{port} does not answer like rank 0: {error}") from None
    if problem:
        raise ValueError(f"rank 0 refused this process: {problem}")
    return link, text


def _send_text(link, text):
    raw = text.encode()
    link.sendall(struct.pack("<Q", len(raw)) + raw)


def _receive_text(link, seconds):
    """A text that arrives within so many seconds; TimeoutError if it does not."""
    deadline, header = time.monotonic() + seconds, bytearray(8)
    receive_into(link, memoryview(header), deadline)
    length = struct.unpack("<Q", header)[0]
    if length > LONGEST_TEXT:
        raise ConnectionError("it did not send a message of tinyddpm")
    raw = bytearray(length)
    receive_into(link, memoryview(raw), deadline)
    return raw.decode()


def receive_into(link, view, deadline=None):
    while view:
        if deadline:
            link.settimeout(_left(deadline))
        count = link.recv_into(view)
        if count == 0:
            raise ConnectionError("its connection ended")
        view = view[count:]


def _left(deadline):
    """The seconds until then; TimeoutError if there are none."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("it took too long")
    return left
