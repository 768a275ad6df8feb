"""Homework: stubs from the library's source, a grader that is not fooled, and results that Gradescope reads."""

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from types import SimpleNamespace

import homework_answers
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
LESSONS = ROOT / "lessons"
sys.path.insert(0, str(LESSONS))
import grade
import make_homework
import tasks

from tinyddpm import ops  # noqa: E402

TASKS = [task for found in tasks.LESSONS.values() for task in found]


def solution(lesson):
    """A homework file with all functions filled in: the library's source, and the answers to the questions."""
    answers = "\n\n".join(source(task) for task in tasks.LESSONS[lesson])
    return f'"""Filled in."""\n\nimport math\n\n{tasks.IMPORTS[lesson]}\n\n{answers}'


def source(task):
    """The code of one task's functions, with the library's helpers that a homework file may not import."""
    lesson = task.number.split(".")[0].zfill(2)
    answers = {name for t in tasks.LESSONS[lesson] for name in t.names}
    given = set(re.findall(r"\w+", tasks.IMPORTS[lesson])) | {"array_module", "to_numpy", "np", "math", "ops", "numpy"}
    parts, helpers = [], []

    def add(f):
        code, module = textwrap.dedent(inspect.getsource(f)), vars(inspect.getmodule(f))
        for name in sorted(set(re.findall(r"\bops\.(\w+)", code)) - answers - {*helpers}):
            helpers.append(name)
            add(inspect.unwrap(getattr(ops, name)))
        for name in sorted({node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}):
            if name in module and name not in answers | given | {f.__name__, *helpers}:
                helpers.append(name)
                if inspect.isfunction(module[name]):
                    add(module[name])
                elif not inspect.ismodule(module[name]):
                    parts.append(f"{name} = {module[name]!r}")
        parts.append(re.sub(r"\bops\.(\w+)", r"\1", code))             # defined in the homework file itself

    for name in task.names:
        add(getattr(homework_answers, name) if task.stubs else task.answers[name])
    return "from tinyddpm.backend import array_module, to_numpy\n\n\n" + "\n\n".join(parts)


def parts(task, text):
    """What is wrong with each part of a task of this homework, for both seeds; in this process."""
    module = types.ModuleType("homework")
    exec(compile(text, "homework.py", "exec"), vars(module))
    return [grade.compare(task, seed, *grade.collect(task, module, seed))
            for seed in (grade.VISIBLE_SEED, grade.HIDDEN_SEED)]


def problems(task, text):
    """All that is wrong with a task, for both seeds."""
    return [{problem for problem in found.values() if problem} for found in parts(task, text)]


# ---- the stubs ----

@pytest.mark.parametrize("lesson", tasks.LESSONS)
def test_a_homework_is_what_the_library_says(lesson):
    """Regenerating it changes nothing: homework and library cannot drift apart."""
    assert make_homework.homework(lesson) == (tasks.folder(lesson) / "homework.py").read_text()


def test_every_lesson_has_a_homework_with_questions_of_its_own():
    assert list(tasks.LESSONS) == [f"{n:02}" for n in range(1, 21)]
    for lesson, found in tasks.LESSONS.items():
        assert sum(bool(task.stubs) for task in found) >= 1 and sum(not task.stubs for task in found) >= 1
        assert [task.number for task in found] == [f"{int(lesson)}.{i}" for i in range(1, len(found) + 1)]


@pytest.mark.parametrize("lesson", tasks.LESSONS)
def test_an_untouched_homework_scores_nothing_for_the_right_reason(lesson):
    text = (tasks.folder(lesson) / "homework.py").read_text()
    for task in tasks.LESSONS[lesson]:
        for found in parts(task, text):
            assert grade.credit(found) == 0
            assert set(found.values()) <= {f"not written yet: {task.number} {name}" for name in task.names}


# ---- right and wrong answers ----

@pytest.mark.parametrize("task", TASKS, ids=[task.number for task in TASKS])
def test_the_right_answer_scores(task):
    found = parts(task, solution(task.number.split(".")[0].zfill(2)))
    assert [set(each.values()) for each in found] == [{None}] * 2 and {part for part in task.hints} <= found[0].keys()
    assert [grade.credit(each) for each in found] == [1, 1]


MUTANTS = {        # task -> (right, wrong) in its functions' source
    "1.1": [("np.rint(", "np.floor("), ("0, 255).", "0, 300)."), ("127.5", "127")],
    "1.2": [("i // columns", "i % columns"), ("+ margin, C), 64", "+ margin, C), 65"),
            ("(W + margin) + margin\n", "(W + margin)\n"), ("math.ceil(math.sqrt(N))", "int(math.sqrt(N))")],
    "1.3": [(".T", ""), ("np.linalg.cholesky(covariance)", "covariance"), ("mean +", "")],
    "1.4": [("images.astype(np.float64) / 255", "images * 2 / 510"), ("/ 255", "/ 256"),
            ("low + (high - low)", "high")],
    "2.1": [("1 - beta", "1 + beta"), ("np.sqrt(beta)", "beta"), ("s.beta[t]", "s.alpha_bar[t]")],
    "2.2": [("np.sqrt(1 - alpha_bar)", "1 - alpha_bar"), ("s.alpha_bar", "s.alpha"), ("* eps", "+ eps")],
    "2.3": [("** 2", ""), ("f[1:] / f[:-1]", "f[1:] / f[0]"), ("largest)", "1.0)"), ("/ (1 + offset)", "")],
    "2.4": [("np.append(0.0, ", "np.append(1e-4, "), ("-u", "u"), ("(start, end, T)", "(start, end, T + 1)[1:]")],
    "3.1": [("s.alpha_bar[t - 1]", "s.alpha_bar[t]"), ("np.sqrt(previous)", "previous"),
            ("np.sqrt(s.alpha[t])", "np.sqrt(alpha_bar)")],
    "3.2": [("/ per_sample(np.sqrt(alpha_bar), xt)", ""), ("factor = s.beta[t] /", "factor = np.sqrt(s.beta[t]) /"),
            ("np.sqrt(s.alpha[t])", "s.alpha[t]")],
    "3.3": [("if t > 1", "if t > 0"), (".sqrt(sigma2)", ".asarray(sigma2)"), ("for t in times", "for t in times[1:]"),
            ("yield Step(t, x, x0)", "yield Step(t, x, x)")],
    "3.4": [("np.log(weights) - ", "-"), ("math.sqrt(alpha_bar) * means", "means"), ("/ variance *", "*"),
            ("alpha_bar * sigma**2 + 1", "sigma**2 + 1")],
    "4.1": [("rows.T @ drows", "drows.T @ drows[:, :1] + 0 * w"), ("drows.sum(axis=0)", "drows.mean(axis=0)"),
            ("dy @ w.T", "-dy @ w.T")],
    "4.2": [("(1 + x * (1 - s))", "(1 + (1 - s))"), ("dy * s * (1 + x * (1 - s))", "dy * s"),
            ("return x * sigmoid(x), x", "return sigmoid(x), x")],
    "4.3": [("np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))", "np.log1p(np.exp(x))"), ("0.5 * cache", "cache"),
            ("1 + np.tanh", "1 - np.tanh")],
    "4.4": [(" - y * (dy * y).sum(axis=1, keepdims=True)", ""), (")) / length", "))"),
            ("(x**2).sum(axis=1", "(x**2).mean(axis=1")],
    "5.1": [("(1 - beta2) * (g * g - v)", "(1 - beta2) * (g - v)"), ("m / (1 - beta1**step)", "m"),
            ("(values - ema)", "(g - ema)"), ("grads * grad_scale", "grads"),
            ("    if not math.isfinite(grad_scale):\n        return\n", "")],
    "5.2": [("velocity *= momentum", ""), ("velocity += grads", "velocity = velocity + grads"),
            ("lr * velocity", "lr * grads")],
    "5.3": [("(step - warmup) / (total - warmup)", "step / total"), ("step / warmup", "1"), (" / 2", "")],
    "5.4": [("min(1, largest / norm)", "largest / norm"), ("(g**2).sum()", "(g**2).mean()"),
            ("math.sqrt(sum((g**2).sum() for g in grads))", "max(np.sqrt((g**2).sum()) for g in grads)")],
    "6.1": [("window @ w[p, q]", "window @ w[-1 - p, -1 - q]"), ("dwindow += dy", "dwindow[...] = dy"),
            ("return y + b", "return y"), ("dpadded[:, top:", "dpadded[:, left:"),
            ("drows.sum(axis=0)", "drows.mean(axis=0)")],
    "6.2": [("x.repeat(2, axis=1).repeat(2, axis=2)", "x.repeat(2, axis=1).repeat(2, axis=1)"),
            (".sum(axis=(2, 4))", ".mean(axis=(2, 4))"), (".sum(axis=(2, 4))", "[:, :, 0, :, 0]")],
    "6.3": [("kh // 2 * dilation, kw // 2 * dilation", "kh // 2, kw // 2"), ("dpadded[place] +=", "dpadded[place] ="),
            ("return y + b", "return y"), ("axis=(0, 1, 2)", "axis=(0, 1)")],
    "7.1": [("return y, (norm_cache, silu_cache)", "return normal, (norm_cache, silu_cache)"),
            (" - dnormal.mean(axis=(1, 3), keepdims=True)", ""),
            ("- normal * (dnormal * normal).mean(axis=(1, 3), keepdims=True)", ""),
            ("grouped.var(axis=(1, 3), keepdims=True)", "grouped.var(axis=(1, 3), keepdims=True, ddof=1)"),
            ("dx = rstd *", "dx = 0 * rstd *"), ("(dy * gamma)", "dy")],
    "7.2": [(" - normal * (dnormal * normal).mean(axis=(1, 3), keepdims=True)", ""),
            ("dnormal - normal", "dnormal - dnormal.mean(axis=(1, 3), keepdims=True) - normal"),
            ("(grouped**2).mean(axis=(1, 3), keepdims=True)", "grouped.var(axis=(1, 3), keepdims=True)")],
    "7.3": [("x * (1 + scale[:, None, None])", "x * scale[:, None, None]"),
            ("(dy * x).sum(axis=(1, 2))", "(dy * x).mean(axis=(1, 2))"), ("dy * (1 + scale[:, None, None])", "dy")],
    "8.1": [(" - logits.max(axis=-1, keepdims=True)", ""), (" - (p * dp).sum(axis=-1, keepdims=True)", ""),
            ("e.sum(axis=-1, keepdims=True)", "e.sum()"), ("dlogits / tau, ", "dlogits, "), ("/ tau**2", "/ tau"),
            ("-(dlogits * x)", "(dlogits * x)")],
    "8.2": [("1 / math.sqrt(q.shape[-1])", "1.0"), ("softmax_cache) * scale", "softmax_cache)"),
            ("join_heads(dlogits @ k), join_heads(dlogits.swapaxes(-1, -2) @ q)",
             "join_heads(dlogits.swapaxes(-1, -2) @ q), join_heads(dlogits @ k)"),
            ("p.swapaxes(-1, -2) @ dy", "p @ dy")],
    "8.3": [("np.where(mask, x, -np.inf)", "np.where(mask, x, 0)"), ("return cache * (dp", "return (dp"),
            (" - (cache * dp).sum(axis=-1, keepdims=True)", " - (cache * dp).mean(axis=-1, keepdims=True)")],
    "9.1": [("(t - 1)", "t"), ("[xp.sin(angles), xp.cos(angles)]", "[xp.cos(angles), xp.sin(angles)]"),
            ("width // 2 - 1", "width // 2"), (".astype(dtype)", "")],
    "9.2": [("[a, b]", "[b, a]"), ("dy[..., :channels], dy[..., channels:]", "dy[..., channels:], dy[..., :channels]"),
            ("dy[..., channels:]", "dy[..., :-channels]")],
    "9.3": [(".swapaxes(2, 3)\n    return y", "\n    return y"),
            ("dx.reshape(N, size * H", "2 * dx.reshape(N, size * H"),
            ("H // size, size, W // size, size, C).swapaxes(2, 3)",
             "H // size, size, W // size, size, C).swapaxes(2, 3)[:, :, :, ::-1]")],
    "9.4": [(" / 4", ""), (".mean(axis=(2, 4))", ".sum(axis=(2, 4))"), (".mean(axis=(2, 4))", "[:, :, 0, :, 0]")],
    "10.1": [("2 / difference.size", "1 / difference.size"), (".mean(), difference", ".sum(), difference"),
             ("* dloss", "")],
    "10.2": [("(1.0, cache)", "(0.5, cache)"), (".target(s, x0, xt, t, eps)", ".target(s, x0, xt, t, x0)"),
             ("PREDICTIONS[prediction]", "PREDICTIONS['eps']")],
    "10.3": [("delta * (size - delta / 2)", "delta * size"), ("np.clip(d, -delta, delta)", "d"),
             ("(dloss / d.size)", "dloss")],
    "11.1": [("np.linspace(T, 1, steps)", "np.linspace(T, 0, steps)"), ("np.round(", "np.floor("),
             ("np.linspace(T, 1, steps)", "np.linspace(1, T, steps)")],
    "11.2": [("[*times[1:], 0]", "times[1:]"), ("- sigma**2", ""), ("eta * np.sqrt", "np.sqrt"),
             ("alpha_bar / alpha_bar_previous", "alpha_bar_previous / 2")],
    "11.3": [("np.full(len(x), now)", "np.full(len(x), after)"),
             ("np.sqrt(1 - s.alpha_bar[after])", "np.sqrt(1 - s.alpha_bar[now])"),
             ("(times[:-1], times[1:])", "(times[:-2], times[1:])")],
    "11.4": [("(1 - weight) * angle", "weight * angle"), (" / np.sin(angle)", ""),
             ("np.arccos(cosine)", "np.arccos(cosine.mean() + 0 * cosine)")],
    "12.1": [(" / math.log(2)", ""), ("mean(axis=1)", "sum(axis=1)"), (".mean(axis=1)", ".mean()")],
    "12.2": [("- math.log1p(-alpha_bar)", "+ math.log1p(-alpha_bar)"), (") / 2", ")"),
             ("s.alpha_bar[-1]", "s.alpha_bar[1]")],
    "12.3": [("x0 < -EDGE", "x0 < -2"), ("x0 + HALF_BIN", "x0"), ("log_variance / 2", "log_variance"),
             ("1e-12", "1e-3")],
    "12.4": [("1 / (levels - 1)", "1 / levels"), ("x0 > 1 - half", "x0 > 2"), (" / sigma)", ")")],
    "13.1": [("alpha_bar / (1 - alpha_bar), ", "(1 - alpha_bar) / alpha_bar, "),
             ("1 / (1 - alpha_bar), ", "1 - alpha_bar, "),
             ("before * s.beta[t]**2", "s.beta[t]**2")],
    "13.2": [("* x0 + per_sample(from_xt, xt) * xt", "* x0"), ("/ per_sample(from_x0, xt)", ""),
             ("mu - per", "mu + per")],
    "13.3": [("s.beta[t]**2", "s.beta[t]"), ("2 * s.variance", "s.variance"), (" * s.alpha[t]\n", "\n"),
             ("return weights / weights.sum()", "return weights")],
    "13.4": [("* v +", "* v -"), ("np.sqrt(1 - alpha_bar) * xt", "xt"), ("np.sqrt(alpha_bar) * v", "v")],
    "13.5": [("np.minimum", "np.maximum"), (" / s.snr[t]", ""), ("gamma) /", "1.0) /")],
    "14.1": [("- 2 *", "- "), ("((a.mean - b.mean) ** 2).sum() +", ""), ("np.trace(S2)", "np.trace(S1)")],
    "14.2": [("_divergence(p[i:j]).mean()", "_divergence(p).mean()"), ("np.exp(", "("),
             ("np.std(scores)", "np.std(scores, ddof=1) if splits > 1 else 0")],
    "14.3": [(" + 0x7fff + ((bits >> 16) & 1)", ""), ("0x7fff + ((bits >> 16) & 1)", "0x8000"),
             ("0xffff0000", "0xfff80000")],
    "14.4": [("scale / 2, 0", "scale / 2, good"), ("scale * 2, 0", "scale * 2, good + 1"),
             ("good + 1 == grow_after", "good == grow_after")],
    "14.5": [("batch[rank * each:(rank + 1) * each]", "batch[rank::size]"),
             ("(rank + 1) * each", "(rank + 1) * each + 1"), ("rank * each:", "max(0, rank * each - 1):")],
    "15.1": [("weights * np.exp", "np.exp"), ("alpha_bar * sigma**2 + 1", "sigma**2 + 1"),
             ("scores[:, k] - ", "scores[:, k] + ")],
    "15.2": [("one_hot - probabilities", "one_hot"), ("one_hot - probabilities", "probabilities - one_hot"),
             ("(np.asarray(labels))", "(np.asarray(labels)[::-1])")],
    "15.3": [("scale * (1 - s.alpha_bar[t])", "(1 - s.alpha_bar[t])"), ("/ np.sqrt(s.alpha_bar[t])", ""),
             ("    if clip:\n            x0 =", "    if clip:\n            variance ="),
             ("mu_from_x0(s, x0, xt, t)", "mu_from_x0(s, p(xt, t)[2], xt, t)")],
    "15.4": [("w = 1\n", "w = 0\n"), ("labels if w else none", "labels"), ("+ w * (both[:N]", "+ (w - 1) * (both[:N]"),
             ("if w in (0, 1):", "if w == 0:"), ("<= interval[1]", "< interval[1] - 40")],
    "16.1": [("(eps + ahead) / 2", "ahead"), ("if previous else x0", "if previous else x"),
             ("transfer(s, x, eps, t, previous), previous)", "x, previous)")],
    "16.2": [("h / 2 /", "h /"), ("(here, x0)", "(here, ahead)"), ("(x0 - earlier[1])", "(earlier[1] - x0)"),
             ("if earlier and previous:", "if False:")],
    "16.3": [("h / 2 * eps", "h * eps"), ("sigma + h / 2)", "sigma)"), ("after - sigma", "sigma - after")],
    "16.4": [("u * transposed(u)", "transposed(u)"), (".mean(axis=0)", ".sum(axis=0)"),
             (".sum(axis=2)", ".mean(axis=2)")],
    "17.1": [("mask * x, lambda", "x, lambda"), (".mean(axis=(2, 4))", ".sum(axis=(2, 4))"),
             (".repeat(factor, axis=2)", ".repeat(factor, axis=2) / factor")],
    "17.2": [("y - measurement.of(x0)", "y"), ("x0 + measurement", "measurement"),
             ("mu_from_x0(s, x0, xt, t), variance, x0", "mu_from_x0(s, x0, xt, t), variance, xt")],
    "17.3": [("/ s.alpha_bar[t]", ""), ("np.sqrt(1 - kept)", "1 - kept"), ("s.alpha_bar[later]", "s.alpha[later]")],
    "17.4": [("(values - mean[known])", "values"), ("- gain @", "+ gain @"), ("mean[others] + gain", "gain")],
    "17.5": [("scale / np.sqrt(s.alpha_bar[t])", "scale"), ("y - measurement.of(x0)", "measurement.of(x0) - y"),
             ("p.backward(measurement.back(y - measurement.of(x0)))", "measurement.back(y - measurement.of(x0))"),
             ("        if clip:\n            x0 =", "        if clip:\n            y =")],
    "18.1": [("np.arange(T + 1) / (T + 1)", "np.arange(T + 1) / T"), ("(1 - u)**2 + u**2", "1"),
             ("per_sample(signal + noise, xt)", "per_sample(signal, xt)"), ("(xt - per", "(xt + per")],
    "18.2": [("(after - r)", "(r - after)"), ("velocity(path[-1], r)", "velocity(path[-1], after)"),
             ("path[-1] + (", "z + (")],
    "18.3": [("(end - kept * xt)", "end"), ("(t + after) / 2", "after"), ("teacher(x, middle)", "teacher(x, t)"),
             ("(b - kept * a)", "b")],
    "18.4": [("if previous else x0", "if previous else x"), ("previous, rng", "t, rng"),
             ("yield Step(t, x, x0)", "yield Step(previous, x, x0)"), ("rng.standard_normal(x.shape, dtype=x.dtype)",
                                                                       "(x - x0)")],
    "18.5": [("position(s, t) - position(s, previous)", "1"), ("velocities.append(eps - x0)", "velocities.append(eps)"),
             ("(v - mean)**2", "abs(v - mean)"), ("noise / (signal + noise)", "noise"), (".mean()", ".sum()")],
    "19.1": [("1 - each / T", "each / T"), ("x0, K)", "x0, K - 1)"), ("u < ", "u > ")],
    "19.2": [("/ (math.log(2) * x0.size)", "/ x0.size"), ("(xt == d.K)", "(xt < d.K)"), ("(p - truth)", "(truth - p)"),
             ("ones_like(xt)", "zeros_like(xt)")],
    "19.3": [("(1 - (t - 1) / T)", "(1 - t / T)"), ("/ joint.sum()", ""), ("values == x0", "values == xt")],
    "19.4": [("(below <= u)", "(below < u - 0.2)"), ("* below[..., -1:]", "* 0.5"), ("x, t, previous)", "x, t, t - 1)"),
             ("p0.argmax(axis=-1)", "x")],
    "19.5": [("/ T", ""), ("H + (", "H - ("), ("entropy(shares.sum(axis=0))", "entropy(shares.sum(axis=1))")],
    "20.1": [("x // f * ends[-1]", "x // ends[-1] * f"), ("+ start + x % f", "+ x % f"), ("- ends[symbol]\n", "\n"),
             ("end <= x % M", "end < x % M"), ("x // f", "int(x / f)")],
    "20.2": [("(M - len(p)) * p).astype(int) + 1", "M * p).astype(int)"), ("np.floor(", "np.rint("),
             ("p.argmax()", "-1")],
    "20.3": [("for value in x:", "for value in x[::-1]:"), ("[::-1]\n", "\n"), ("stack.push(q(x), z)", "pass"),
             ("stack.pop(q(x))", "stack.pop(p_z)")],
    "20.4": [("joint.sum(axis=0) * q", "joint"), ("np.log2(np.where(q > 0, q, 1))", "0"),
             ("np.where(q > 0, q, 1)", "q"), ("np.log2", "np.log")],
    "20.5": [("np.floor(", "np.rint("), ("2**PRECISION - reserved", "2**PRECISION"), ("1 - below", "below"),
             ("-abs(z)", "-abs(z) / 2")],
}


def test_every_task_has_three_mutants():
    assert MUTANTS.keys() == {task.number for task in TASKS} and min(map(len, MUTANTS.values())) >= 3


@pytest.mark.parametrize("number, right, wrong", [(number, *m) for number, found in MUTANTS.items() for m in found])
def test_a_wrong_answer_fails(number, right, wrong):
    task = tasks.find(number)
    its = source(task)
    assert right in its, its
    text = solution(number.split(".")[0].zfill(2)).replace(its, its.replace(right, wrong))
    with np.errstate(all="ignore"):
        found = problems(task, text)
    assert all(found) and not any("is no Python" in f or "NameError" in f or "SyntaxError" in f for f in found
                                  if f), found


@pytest.mark.parametrize("lesson", ["06", "07", "08", "09", "10"])
def test_a_right_homework_trains_the_real_thing(lesson):
    """Its operations replace the library's in a whole U-Net, and the losses are the same."""
    import tinyddpm
    from tinyddpm import presets
    from tinyddpm.training import Trainer

    module = types.ModuleType("homework")
    exec(compile(solution(lesson), "homework.py", "exec"), vars(module))
    preset = presets.get("mnist").override(base_channels=16, groups=4, batch_size=4, attention_resolutions=(7,),
                                           num_classes=None)
    images, losses = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8), []
    for overrides in (None, module):
        tinyddpm.use("numpy", overrides)
        trainer = Trainer(preset)
        losses.append([trainer.step(images) for _ in range(3)])
    assert tinyddpm.backend.state.own
    np.testing.assert_allclose(*losses, rtol=1e-4)


# ---- the grader as a program ----

def graded(tmp_path, lesson, text):
    """The grader's (results, output) for a homework file with this text."""
    path = tmp_path / "homework.py"
    path.write_text(text)
    done = subprocess.run([sys.executable, LESSONS / "grade.py", lesson, "--file", path, "--json", tmp_path / "r.json"],
                          capture_output=True,
                          text=True, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stderr
    return json.loads((tmp_path / "r.json").read_text()), done.stdout


FIELDS = {"score": (int, float), "max_score": (int, float), "name": str, "number": str, "output": str, "status": str,
          "visibility": str}


@pytest.mark.parametrize("lesson", tasks.LESSONS)
def test_a_right_homework_may_run(lesson):
    """So may its stubs."""
    for text in (solution(lesson), (tasks.folder(lesson) / "homework.py").read_text()):
        assert grade.screen.problem(text.encode(), "homework.py", tasks.IMPORTS[lesson]) is None


@pytest.mark.parametrize("lesson", ["06", "08", "14"])
def test_the_whole_homework_filled_in_has_all_points(tmp_path, lesson):
    """Run as a program, which removes the library's own answers; the results have Gradescope's fields and add up."""
    results, printed = graded(tmp_path, lesson, solution(lesson))
    assert results.keys() == {"score", "max_score", "tests"}
    points = sum(task.points for task in tasks.LESSONS[lesson])
    assert results["score"] == results["max_score"] == points == sum(t["max_score"] for t in results["tests"]), printed
    assert len(results["tests"]) == 2 * len(tasks.LESSONS[lesson])
    for test in results["tests"]:
        assert test.keys() == FIELDS.keys() and all(isinstance(test[name], kind) for name, kind in FIELDS.items())
        assert test["status"] == "passed" and test["visibility"] in ("visible", "hidden")
    assert f"{points} of {points} points" in printed


SILU = """import numpy as np


def silu(x):
    s = (1 + np.tanh(x / 2)) / 2
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * s * (1 + x * (1 - s))
"""
LINEAR = "\n\ndef linear(x, w, b):\n    return x @ w + b, (x, w)\n\n\ndef linear_backward(dy, cache):\n    {}\n"
OF_LINEAR = """x, w = cache
    drows = dy.reshape(-1, dy.shape[-1])
    return dy @ w.T, x.reshape(-1, x.shape[-1]).T @ drows, drows.sum(axis=0)"""
BAD = {
    "an endless loop": (LINEAR.format("while True: pass"), "endless loop"),
    "an end of the process": (LINEAR.format("raise SystemExit(0)"), "SystemExit"),
    "a crash": (LINEAR.format("f = lambda n: f(n + 1); return f(0)"), "RecursionError|status"),
    "one gradient too few": (LINEAR.format(OF_LINEAR.replace(", drows.sum(axis=0)", "")),
                             "returned 2 value.s.; expected 3"),
    "one gradient too many": (LINEAR.format("x, w = cache; g = np.ones(w.shape[1]); return dy @ w.T, w, g, g"),
                            "returned 4 value.s.; expected 3"),
    "a result that is not a number": (LINEAR.format("return 'a', 'b', 'c'"), "expected numbers"),
    "an object that claims to be equal": (LINEAR.format("return [type('A', (), {'__eq__': lambda a, b: True})()] * 3"),
                                          "expected numbers"),
    "a result that fills the memory": (LINEAR.format("return np.ones((10**4, 2000)), 1, 1"), "expected numbers"),
    "an argument that is changed": (LINEAR.replace("return x @ w + b", "y = x @ w + b\n    x += 1\n    return y")
                                    .format(OF_LINEAR), "linear"),
    "an upstream gradient that is changed": (
        LINEAR.format("dy *= 1.0; x, w = cache; g = dy @ w.T; dy += 1; return g, w, w[0]"), "linear"),
    "a flood of output": (LINEAR.format("while True: print('x' * 100000)"), "endless loop"),
}


@pytest.mark.parametrize("trick", BAD)
def test_a_bad_function_costs_its_own_task_alone(tmp_path, trick, monkeypatch):
    """The task scores zero, with a reason; the others keep their points."""
    code, message = BAD[trick]
    (tmp_path / "homework.py").write_text(SILU + code)
    monkeypatch.setattr(grade, "SECONDS", 3)
    monkeypatch.setitem(tasks.LESSONS, "04", tasks.LESSONS["04"][:2])           # a process for each task takes time
    by_task = {t["number"]: t for t in grade.grade("04", tmp_path / "homework.py")["tests"]}
    assert by_task["4.2.1"]["status"] == by_task["4.2.2"]["status"] == "passed", by_task["4.2.1"]
    for found in by_task["4.1.1"], by_task["4.1.2"]:
        assert found["score"] <= 0.75 and re.search(message, found["output"]), found        # half: the forward is right


def test_the_librarys_answers_are_gone_while_it_grades():
    """Even for a homework file that reaches for them: no function of the lesson, nor its twin, is where it was."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); import tasks; tasks.take_away('4.1')\n"
            "import tinyddpm.ops as o, tinyddpm.dispatch as d\n"
            "def refuses(f):\n    try: f(1, 2, 3)\n    except RuntimeError as e: return 'is the answer' in str(e)\n"
            "print(refuses(o.linear), refuses(d.ops.linear), refuses(d.READABLE['linear']), "
            "tasks.find('4.1').answers, sys.modules['tinyddpm.kernels'])")
    done = subprocess.run([sys.executable, "-c", code, str(LESSONS)], capture_output=True, text=True)
    assert done.stdout == "True True True {} None\n", done.stderr


FORBIDDEN = [
    ("def silu(x:", "is no Python: line 1"), ("import os", "imports os in line 1"),
    ("from importlib import reload", "imports importlib"), ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ("x = eval('1')", "uses eval in line 1"), ("from tinyddpm.backend import sys", "imports sys from tinyddpm.backend"),
    ("y = (1).__class__", "uses .__class__"),
    ("import tinyddpm.backend as b", "imports tinyddpm.backend"),
    ("from tinyddpm.ops import linear", "imports tinyddpm.ops"),
    ("from tinyddpm.kernels import cpu", "imports tinyddpm.kernels"),
    ("from tinyddpm import *", "imports * from tinyddpm"), ("from numpy import *", "imports * from numpy"),
    ("import collections", "imports collections"), ("import tasks", "imports tasks"),
    ("def g(): yield it.gi_frame.f_back", "uses .f_back"), ("f = getattr(print, 'x')", "uses getattr"),
    ("v = vars()", "uses vars"), ("b = __builtins__", "uses __builtins__"),
    ("match 1:\n    case object(__globals__=g): pass", "uses .__globals__"),
    ("import numpy as np\nnp.testing.runstring('', {})", "uses .testing"),
    ("import numpy as np\nnp.savez = print", "uses .savez"),
    ("import numpy as np\nnp.sum = print", "assigns to np.sum"),
    ("import numpy as np\nnp.savetxt('homework.py', [])", "uses .savetxt"),
    ("import numpy as np\nnp.ma.core.inspect", "uses ."),
    ("x = " + "-" * 3000 + "1", "nested too deeply|cannot be imported"),
    ("x = " + "not " * 100_000 + "1", "nested too deeply|is no Python"),
    ("# -*- coding: utf-7 -*-\n# +AAo-import os", "imports os"),
    ("raise ValueError('\\ud800')", "ValueError"), ("raise BaseException", "BaseException"),
    ("x = 1 \0", "is no Python"), ("while True: pass", "endless loop"),
]


@pytest.mark.parametrize("text, message", FORBIDDEN, ids=[str(i) for i in range(len(FORBIDDEN))])
def test_a_file_that_cannot_or_may_not_run_scores_nothing(tmp_path, text, message, monkeypatch):
    """The grader gives a reason, never a traceback."""
    monkeypatch.setattr(grade, "SECONDS", 2)
    monkeypatch.setitem(tasks.LESSONS, "04", [tasks.find("4.2")])                # one task, to be quick
    (tmp_path / "homework.py").write_bytes(("" if text.startswith("#")
                                            else SILU + "\n").encode() + text.encode("utf-8", "surrogatepass") + b"\n")
    results = grade.grade("04", tmp_path / "homework.py")
    message = re.sub(r"line 1", r"line \\d+", message)
    assert results["score"] == 0 and all(re.search(message.replace("*", "[*]"), t["output"])
                                         for t in results["tests"]), results["tests"][0]


@pytest.mark.parametrize("change",
                         [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"),
                          lambda text: "# -*- coding: latin-1 -*-\n# \xe9\n" + text,
                          lambda text: "from __future__ import annotations\nimport numpy\n"
                                       "input = load = kernels = 1\n" + text])
def test_a_right_homework_in_another_form_scores(tmp_path, change, monkeypatch):
    monkeypatch.setitem(tasks.LESSONS, "04", [tasks.find("4.2")])
    text = change(SILU)
    (tmp_path / "homework.py").write_bytes(text.encode("latin-1" if "latin-1" in text else "utf-8"))
    results = grade.grade("04", tmp_path / "homework.py")
    assert results["score"] == 3, results["tests"][0]


def test_a_folder_is_no_homework(tmp_path):
    results = grade.grade("04", tmp_path)
    assert results["score"] == 0 and "cannot be read" in results["tests"][0]["output"]


def test_a_homework_that_was_not_handed_in_has_a_result_too(tmp_path):
    """Without one, Gradescope shows a failed autograder."""
    command = [sys.executable, LESSONS / "grade.py", "04", "--file", tmp_path / "homework.py", "--json",
               tmp_path / "r.json"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["score"] == 0 and {t["output"] for t in results["tests"]} == {"homework.py was not handed in"}


def test_a_wrong_answer_is_told_where(tmp_path):
    results, printed = graded(tmp_path, "04", SILU.replace("(1 + x * (1 - s))", "(1 + x)"))
    found = next(t for t in results["tests"] if t["number"] == "4.2.1")
    assert re.search(r"silu_backward dx: x \(3, 4\), shape \(3, 4\): worst at index \(\d, \d\): "
                     r"expected \S+, got \S+",
                     found["output"]) and "hint, silu_backward dx: x enters twice" in found["output"]
    assert "silu: right" in found["output"] and found["score"] == 0.75                     # half: the forward is right
    assert textwrap.indent(found["output"], "     ") in printed and "there is no function linear" in printed


@pytest.mark.parametrize("right, wrong, named", [
    ("rows.T @ drows", "(rows.T @ drows)[::-1]", "worst at index"), ("dy @ w.T", "-dy @ w.T", "its sign is wrong"),
    ("drows.sum(axis=0)", "3 * drows.sum(axis=0)", "3 times what it should be"),
    ("drows.sum(axis=0)", "0 * drows.sum(axis=0)", "all of it is 0"),
    ("drows.sum(axis=0)", "drows.sum(axis=0) + 2", "off by 2")])
def test_one_wrong_gradient_costs_its_part(right, wrong, named):
    """A sixth of the task: half of it is the backward's, which has three. The rest is right, and the mistake is
    named."""
    text = solution("04")
    assert right in text
    for found in parts(tasks.find("4.1"), text.replace(right, wrong)):
        assert grade.credit(found) == pytest.approx(5 / 6)
        assert named in grade.report(tasks.find("4.1"), found, "")


def test_how_a_wrong_result_resembles_the_right_one():
    a = np.random.default_rng(0).standard_normal((3, 3))
    said = lambda mine, label="x": grade.wrong(label, a, mine, None)
    assert said(a) is None and said(a[:2]) == "x: got shape (2, 3); expected (3, 3)"
    for mine, text in ((a.T, "it is transposed"), (-a, "its sign is wrong"), (2 * a, "2 times what it should be"),
                       (a + 3, "off by 3"), (0 * a, "all of it is 0"), (a * np.nan, "not all of it is finite"),
                       (a + a[:, :1], "each row (last axis) is off by one number")):
        assert said(mine).endswith(text) or text in said(mine), said(mine)
    assert ";" not in said(a**2) and grade.wrong("x", a, None, None) == "x is missing"


def test_more_results_than_there_are_cost_a_part():
    task = tasks.find("11.1")
    answer = task.answers["spread"]
    problem, got = grade.collect(task, SimpleNamespace(spread=answer), 1)
    assert set(grade.compare(task, 1, problem, got).values()) == {None}
    found = grade.compare(task, 1, problem, got | {"another": np.ones(1)})
    assert any(text and "results; expected" in text for text in found.values())


def test_right_for_the_visible_seed_alone_is_said(capsys):
    entries = [{"score": score, "status": "passed", "output": "right"} for score in (1, 0)]
    grade.show(tasks.find("4.2"), entries)
    assert "wrong for the hidden one" in capsys.readouterr().out
    grade.show(tasks.find("4.2"), entries[:1] * 2)
    assert "hidden" not in capsys.readouterr().out


def test_a_missing_error_costs_a_tenth():
    """Of the forward a fifth; and whoever only raises it gets nothing for it."""
    task = tasks.find("6.1")
    text = "def conv2d(*a): raise ValueError\ndef conv2d_backward(*a): 0"
    assert {grade.credit(found) for found in parts(task, text)} == {0}
    assert grade.credit({"f": None, "f errors": "x", "f_backward dx": None}) == pytest.approx(0.9)
    assert grade.credit({"f": "x", "f errors": None, "f_backward dx": None}) == pytest.approx(0.5)


def test_what_a_homework_prints_is_shown(tmp_path, monkeypatch):
    """For the visible seed, and cut off; gradcheck may be used."""
    monkeypatch.setitem(tasks.LESSONS, "04", [tasks.find("4.2")])
    shown = SILU.replace("    s = ", "    print('shape', x.shape)\n    s = ") + (
        "\n\nfrom tinyddpm import gradcheck\n\nprint(gradcheck.check(silu, silu_backward, np.ones(3)) < "
        "1e-7)\nprint('y' * 9000)\n")
    (tmp_path / "homework.py").write_text(shown)
    visible, hidden = grade.grade("04", tmp_path / "homework.py")["tests"]
    assert "printed:\nshape (3,)" in visible["output"] and "True\nyyy" in visible["output"]
    assert len(visible["output"]) < 2200
    assert visible["score"] == 1.5 and hidden["output"] == "right"


@pytest.mark.parametrize("lesson", tasks.LESSONS)
def test_an_open_question_has_an_answer(lesson, capsys):
    assert grade.main([lesson, "--open"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    question, answer = tasks.OPEN[lesson]
    assert question in printed and answer in printed
    assert question in " ".join((tasks.folder(lesson) / "homework.py").read_text().replace("\n# ", " ").split())


@pytest.mark.parametrize("arguments, message",
                         [(["99"], "no lesson 99"), (["4", "--file", "none.py"], "none.py does not exist"),
                          (["4", "--json", "no/such/r.json"], "folder does not exist"),
                          (["4", "--what"], "--what"), (["4", "--hidden-seed", "-5"], "--hidden-seed -5"),
                          (["4", "--hidden-seed", "1"], "the visible one")])
def test_wrong_arguments_are_said(arguments, message, tmp_path):
    done = subprocess.run([sys.executable, LESSONS / "grade.py", *arguments], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
