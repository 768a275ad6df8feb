"""Several processes that share a run, here all on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cupy_on_cpu
import numpy as np
import pytest
from PIL import Image

import tinyddpm
from tinyddpm import safetensors
from tinyddpm.backend import from_numpy, to_numpy
from tinyddpm.training import parallel, rendezvous
from tinyddpm.training.rendezvous import Ranks

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "examples" / "train_mnist.py"
FLAGS = ["--backend", "numpy", "--image-size", 28, "--base-channels", 8, "--groups", 4, "--T", 4, "--batch-size", 12,
         "--warmup", 1,
         "--lr", "1e-3", "--lr-final", "1e-3", "--sample-every", 0]


@pytest.fixture
def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(folder, port, size, rank, *flags):
    """Start a rank in its own folder, as on another machine; set by the environment if there are two, else by flags."""
    (folder / f"at{rank}").mkdir(exist_ok=True)
    environment = {"WORLD_SIZE": size, "RANK": rank, "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": port} if size == 2 else {}
    group = [] if environment else ["--world-size", size, "--rank", rank, "--port", port]
    return subprocess.Popen([sys.executable, PROGRAM, *map(str, [*FLAGS, *flags, "--out", "run", *group])],
                            cwd=folder / f"at{rank}",
                            env=os.environ | {name: str(value) for name, value in environment.items()},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(processes):
    """The (status, output) of each process."""
    found = [(p.communicate(timeout=60)[0], p.returncode) for p in processes]
    return [(status, output) for output, status in found]


def parameters(folder):
    tensors, metadata = safetensors.read(folder / "at0" / "run" / "checkpoint.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)]), json.loads(metadata["steps_done"])


GRADIENTS = """
import sys, numpy as np, tinyddpm
from tinyddpm import data, presets
from tinyddpm.nn import UNet
from tinyddpm.training import Trainer, parallel, rendezvous
from tinyddpm.training.optimizer import Adam
size, rank, port, out = *map(int, sys.argv[1:4]), sys.argv[4]
tinyddpm.use("numpy")
preset = presets.get("mnist").override(batch_size=6, base_channels=16, groups=4, flip=True, warmup=1,
                                       loss="L", prediction="eps", schedule="linear")
trainer = Trainer(preset, parallel.join(rendezvous.Ranks(size, rank, port=port), "test"))
trainer.model = UNet(preset.model, dtype=np.float64).train()
trainer.optimizer = Adam(trainer.model, preset.training)
digits, each, found = data.load("digits", preset.model), 6 // size, []
for k in range(3):
    trainer.begin(*digits.batch(k, 6, 0, slice(rank * each, (rank + 1) * each)))
    found.append(trainer.model.flat_grads.copy())
results = trainer.results()
np.savez(out, *found, losses=[r.loss for r in results])
trainer.group.close()
"""


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_have_the_gradients_of_one(tmp_path, port, size):
    """A batch of 6 on one rank or split over several: equal gradients and losses in each of three steps, in float64."""
    ranks = [(1, 0)] + [(size, rank) for rank in range(size)]
    processes = [subprocess.Popen([sys.executable, "-c", GRADIENTS, str(n), str(r), str(port),
                                   tmp_path / f"{n}-{r}.npz"])
                 for n, r in ranks]
    assert [p.wait(60) for p in processes] == [0] * len(ranks)
    one, *others = (np.load(tmp_path / f"{n}-{r}.npz") for n, r in ranks)
    for other in others:
        for name in one:
            assert np.abs(other[name] - one[name]).max() <= 1e-10 * np.abs(one[name]).max(), name
            np.testing.assert_array_equal(other[name], others[0][name])         # all ranks have the same bits
    assert np.abs(one["arr_0"] - one["arr_1"]).max() > 0.1 * np.abs(one["arr_0"]).max()


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, port):
    """6 steps on two ranks, then 6 on three, equal 12 on one; only rank 0's folder holds a checkpoint."""
    for size, flags in ((2, ["--steps", 6]), (3, ["--resume", "--steps", 12])):
        done = finish([start(tmp_path, port, size, rank, *flags) for rank in range(size)])
        assert [status for status, _ in done] == [0] * size, done
    (tmp_path / "alone").mkdir()
    assert finish([start(tmp_path / "alone", port, 1, 0, "--steps", 12)])[0][0] == 0
    (several, steps), (one, _) = parameters(tmp_path), parameters(tmp_path / "alone")
    assert steps == 12 and np.abs(several - one).max() <= 1e-4 * np.abs(one).max()
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("at*/**/*") if p.is_file())
    assert files and all(name.startswith("at0/run/") for name in files)                         # rank 0 alone writes
    rows = (tmp_path / "at0" / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(n) for n in range(1, 13)]


def test_ranks_decide_together(monkeypatch):
    """If a rank's loss is infinite but not its gradient, it makes the same step as the others; alone it would not."""
    from tinyddpm import presets
    from tinyddpm.training import Trainer
    from tinyddpm.training.trainer import objective

    class Pretended(parallel.Alone):
        size = 2

    right = objective.loss_and_gradient
    monkeypatch.setattr(objective, "loss_and_gradient", lambda *args, **kwargs: right(*args, **kwargs) * np.inf)
    images, preset = np.zeros((2, 28, 28, 1), np.uint8), presets.get("mnist").override(base_channels=8, groups=4)
    labels = np.array([3, 7])
    for group, moves in ((Pretended(), True), (parallel.Alone(), False)):
        trainer = Trainer(preset, group)
        before = trainer.model.flat_values.copy()
        trainer.begin(images, labels)
        assert (trainer.model.flat_values != before).any() == moves


def wait_for_steps(folder, count=3):
    metrics, deadline = folder / "at0" / "run" / "metrics.csv", time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > count):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_rank_that_dies_stops_the_others(tmp_path, port, dead):
    processes = [start(tmp_path, port, 3, rank, "--steps", 100_000, "--save-every", 1) for rank in range(3)]
    wait_for_steps(tmp_path)
    processes[dead].kill()
    for rank, (status, output) in enumerate(finish(processes)):
        if rank == dead:
            assert status == -9
        else:
            # what a rank notices first may be that rank 0, which noticed before it, is gone too
            assert status == 2 and "is gone" in output.splitlines()[-1], output
            assert rank or f"rank {dead} is gone" in output, output
    if dead:
        assert parameters(tmp_path)[1] >= 1                        # the last checkpoint can be read


@pytest.mark.parametrize("asked", [0, 1])
def test_one_rank_that_is_asked_to_stop_stops_all(tmp_path, port, asked):
    processes = [start(tmp_path, port, 2, rank, "--steps", 100_000, "--save-every", 1) for rank in range(2)]
    wait_for_steps(tmp_path)
    processes[asked].send_signal(signal.SIGINT)
    done = finish(processes)
    assert [status for status, _ in done] == [130, 130] and "and saved" in done[0][1], done
    assert parameters(tmp_path)[1] >= 3


# ---- ranks that cannot meet ----

def in_thread(function, *arguments):
    found = []

    def run():
        try:
            found.append(function(*arguments))
        except Exception as error:
            found.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_who_does_not_fit_is_refused_and_the_others_still_meet(port, monkeypatch):
    """A rank of another size, one that has joined already, a stranger: each is told why, and rank 0 keeps waiting.

    A stranger that says nothing, or one byte at a time, does not hold it up.
    """
    monkeypatch.setattr(rendezvous, "HELLO_SECONDS", 0.3)
    tinyddpm.use("numpy")
    thread, found = in_thread(parallel.join, Ranks(3, 0, port=port), "1", "β in UTF-8")
    with pytest.raises(ValueError, match="refused.*'size': 2"):
        parallel.join(Ranks(2, 1, port=port), "1")
    with pytest.raises(ValueError, match="refused.*'version': '2'"):
        parallel.join(Ranks(3, 1, port=port), "2")
    deep = b"[" * 100_000
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x05\0\0\0\0\0\0\0hello", b"\x02\0\0\0\0\0\0\0[]", b"",
                  len(deep).to_bytes(8, "little") + deep):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(noise)
    silent, slow = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))

    def trickle():
        for byte in (1000).to_bytes(8, "little") + bytes(200):
            slow.sendall(bytes([byte]))
            time.sleep(0.1)
    in_thread(trickle)
    one = in_thread(parallel.join, Ranks(3, 1, port=port), "1")
    one[0].join(20)
    with pytest.raises(ValueError, match="refused.*that is there already"):
        parallel.join(Ranks(3, 1, port=port), "1")
    two = parallel.join(Ranks(3, 2, port=port), "1")
    thread.join(20)
    groups = [found[0], one[1][0], two]
    arrays = [np.full((2, 3), 10.0**rank) for rank in range(3)]
    averages = [in_thread(group.average, a) for group, a in zip(groups, arrays)]
    for thread, _ in averages:
        thread.join(20)
    assert [group.text for group in groups] == ["β in UTF-8"] * 3
    assert all(np.array_equal(a, np.full((2, 3), 37.0)) for a in arrays)
    for group in groups:
        group.close()
    silent.close()
    slow.close()


def test_a_frozen_rank_is_noticed(tmp_path, port):
    processes = [start(tmp_path, port, 2, rank, "--steps", 100_000, "--save-every", 1, "--timeout", 2)
                 for rank in range(2)]
    wait_for_steps(tmp_path)
    processes[1].send_signal(signal.SIGSTOP)
    output, _ = processes[0].communicate(timeout=30)
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 2 and "rank 1 is gone (silent for 2 seconds" in output.splitlines()[-1], output
    assert parameters(tmp_path)[1] >= 3


def test_ranks_with_other_data_do_not_train_together(tmp_path, port):
    for rank in range(2):
        (tmp_path / f"at{rank}" / "pictures").mkdir(parents=True)
        for i in range(12):
            Image.fromarray(np.full((8, 8), 10 * i + rank,
                                    np.uint8)).save(tmp_path / f"at{rank}" / "pictures" / f"{i}.png")
    done = finish([start(tmp_path, port, 2, rank, "--dataset", "pictures", "--steps", 2) for rank in range(2)])
    assert [status for status, _ in done] == [2, 2]
    assert "rank 1 is gone" in done[0][1].splitlines()[-1], done
    assert "begun with other images" in done[1][1].splitlines()[-1], done


def test_a_loss_that_is_not_finite_ends_all_ranks_and_only_rank_0_names_the_checkpoint(tmp_path, port):
    flags = ["--steps", 100, "--lr", "1e30", "--lr-final", "1e30", "--warmup", 0]
    done = finish([start(tmp_path, port, 2, rank, *flags) for rank in range(2)])
    last = [output.splitlines()[-1] for _, output in done]
    assert [status for status, _ in done] == [2, 2] and all("not finite" in line or "is gone" in line
                                                            for line in last), done
    assert "checkpoint" in last[0] and "checkpoint" not in last[1] and "unused" not in last[1]


@pytest.mark.skipif(not cupy_on_cpu.COMPILER, reason="no C++ compiler for CuPy's stand-in")
def test_gpus_meet_by_tcp_and_speak_nccl(port, monkeypatch):
    """Two threads as two ranks: device and host arrays, then a shutdown that neither takes for a failure, though rank 1
    is late and still says that it is alive."""
    def late(group, rank, link):
        time.sleep(0.2)
        link.sendall(parallel.ALIVE)
    monkeypatch.setattr(parallel.GpuGroup, "_say_alive", late)
    with cupy_on_cpu.installed():
        tinyddpm.use("cupy")
        cupy_on_cpu.Nccl.barrier = threading.Barrier(2)

        def rank(r):
            group = parallel.join(Ranks(2, r, port=port), "1", "words" if r == 0 else "")
            device, host = from_numpy(np.full(5, 10.0**r, np.float32)), np.array([float(r), 7.0])
            group.average(device)
            group.average(host)
            number = from_numpy(np.float32(r))
            group.broadcast(number)
            group.close()
            return group.text, to_numpy(device).tolist(), host.tolist(), float(number)
        threads = [in_thread(rank, r) for r in range(2)]
        for thread, _ in threads:
            thread.join(30)
    assert [found for _, found in threads] == [[("words", [5.5] * 5, [0.5, 7.0], 0.0)]] * 2


def test_rank_0_that_is_not_there(port, monkeypatch):
    monkeypatch.setattr(rendezvous, "CONNECT_SECONDS", 0.3)
    with pytest.raises(ValueError, match=f"no rank 0 at 127.0.0.1:{port}"):
        parallel.join(Ranks(2, 1, port=port), "1")
    with pytest.raises(ValueError, match="rank 1 did not come"):
        parallel.join(Ranks(2, 0, port=port), "1")


def test_a_port_that_is_taken(port):
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ValueError,
                                                                  match=f"cannot listen at 127.0.0.1:{port}"):
        parallel.join(Ranks(2, 0, port=port), "1")


TORCHRUN = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "2000"}


@pytest.mark.parametrize("environment, flags, expected", [
    ({}, {}, Ranks()), ({}, {"size": 3, "rank": 2}, Ranks(3, 2, 2)), (TORCHRUN, {}, Ranks(4, 2, 1, "node0", 2000)),
    (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, {}, Ranks(4, 2, 1, "node0", 2001)),
    (TORCHRUN, {"size": 1, "rank": 0, "host": "here", "port": 7}, Ranks(1, 0, 0, "here", 7)),
    (TORCHRUN, {"size": 3}, Ranks(3, 2, 1, "node0", 2000)), (TORCHRUN, {"rank": 3}, Ranks(4, 3, 3, "node0", 2000)),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, {}, Ranks(2, 1, 0)),
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, {"host": "n7"}, Ranks(8, 5, 1, "n7")),
    ({"RANK": "3"}, {}, Ranks())])
def test_the_environment_of_a_launcher_counts_where_flags_are_absent(environment, flags, expected):
    assert rendezvous.ranks(environment, **flags) == expected


def test_an_environment_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="WORLD_SIZE='many'; expected a number"):
        rendezvous.ranks({"WORLD_SIZE": "many", "RANK": "0"})
    with pytest.raises(ValueError, match="--rank 4 --world-size 4"):
        rendezvous.ranks(TORCHRUN | {"RANK": "4"})


@pytest.mark.parametrize("flags, message",
                         [(["--rank", "2", "--world-size", "2"], "--rank 2"), (["--rank", "-1"], "--rank -1"),
                          (["--world-size", "5", "--batch-size", "12"], "multiple of the 5 ranks")])
def test_impossible_flags_are_one_line(tmp_path, flags, message):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, PROGRAM, *map(str, FLAGS), "--steps", "2", *flags], cwd=tmp_path,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and not (tmp_path / "runs").exists()
