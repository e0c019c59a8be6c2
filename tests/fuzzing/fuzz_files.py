"""Change files that people hand around, make their digests right again, and read them.

``python tests/fuzzing/fuzz_files.py --mutations 10000`` prints what went wrong, one line each with
the number that repeats it (``--first N --mutations 1``), and ends with 1. What is read is what
anybody may have made: metrics, plans, architectures, weights, settings, journals and checkpoints.
It must be accepted or refused in one sentence: without another exception, in seconds, in bounded
memory, without writing outside of the folder that it is given, and without running what a file
contains.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import Metric, load_pruned, prune, save_pruned
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.base.artifacts import write_tensors
from gp_prune.base.json_fields import canonical_digest
from gp_prune.errors import UserError
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.judging.settings import CompareSettings
from gp_prune.language.parser import from_json
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import synthetic_layer
from gp_prune.metric.file import Conventions, bundled_metrics
from gp_prune.pruning.plan.weights import PackedMask
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import seal
from gp_prune.runs.settings import Settings
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluator import outcome_reader
from gp_prune.training import CheckpointWarning, FineTuning, fine_tune
from gp_prune.training.checkpoint import STATE
from gp_prune.training.weights import load_weights

SEED = 24
"""Decides, with its number, every mutation; what was found once is found again below 10,000."""
SECONDS = 10
MOST_MEMORY = 2**30
CODE = "__import__('os').system('touch run-by-fuzzing')"
"""What must never run; it is recognised by its last word."""

METRICS = ("l1", "taylor_bn", "wanda", "class_map_energy", "hrank")


class Fault(NamedTuple):
    """A mutation that was not dealt with.

    Attributes:
        number: of the mutation, which repeats it.
        target: what was read.
        what: what happened.
    """

    number: int
    target: str
    what: str


class Hang(BaseException):
    """Reading took too long; no handler of errors catches it."""


# Mutations of plain data.


def odd_value(rng: random.Random) -> Any:
    """Return a value that few fields expect."""
    return rng.choice([
        None, True, False, 0, -1, 1, 2, 5, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**70),
        10**400, 0.5, -0.0, -1.5, 1e308, 5e-324, float("nan"), float("inf"), "", "x", "0",
        "\x1b[2J\u202e\x00\x9b", "x" * 9999, "\ud800", "../../outside", "/dev/zero", CODE, [], {},
        [[]] * 50, [0] * 2000, nest(rng.choice([3, 80, 3000])), {"constant": 1e400}, [None],
        {"": {}},
    ])  # fmt: skip


def nest(depth: int) -> Any:
    """Return a list in a list, and so on."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def places(data: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key or index) of everything in plain data."""
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in entries:
        yield data, key
        if isinstance(value, dict | list) and depth < 60:
            yield from places(value, depth + 1)


def mutate(data: Any, rng: random.Random) -> Any:
    """Return a copy of plain data with one to three changes."""
    try:
        data = copy.deepcopy(data)
    except RecursionError:  # it is nested deeply already
        return data
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        found = list(places(data))
        if not found:
            return odd_value(rng)
        container, key = rng.choice(found)
        with contextlib.suppress(RecursionError):  # copies of what is nested deeply
            change(container, key, found, rng)
    return data


def change(container: Any, key: Any, found: list[tuple[Any, Any]], rng: random.Random) -> None:
    """Change one entry of a container in place."""
    value = container[key]
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(["x", "", "\x1b]0;x\x07", str(key) * 2])] = container.pop(key)
    elif kind == 2:
        other, place = rng.choice(found)
        if key in container if isinstance(container, dict) else True:
            container[key] = copy.deepcopy(other[place])
    elif kind == 3 and isinstance(value, list):
        value.extend(copy.deepcopy(value[:1]) * rng.choice([1, 7, 500]))
    elif kind == 4 and isinstance(value, list):
        rng.shuffle(value)
    elif kind == 5 and isinstance(value, str) and value:
        at = rng.randrange(len(value))
        container[key] = value[:at] + rng.choice(["", "\x1b", "é", "(", "0"]) + value[at + 1 :]
    elif kind in (6, 7) and isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = value + rng.choice([-1, 1, 0.5, 100, -(2**40)])
    else:
        container[key] = odd_value(rng)


def dump(data: Any, rng: random.Random) -> bytes:
    """Return plain data as JSON; now and then cut it or flip a bit."""
    try:
        content = json.dumps(data).encode()
    except (ValueError, RecursionError):  # what json cannot write it can well read
        content = b"[" * 100_000
    return damage(content, rng) if rng.random() < 0.1 else content


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut content, flip a bit, or repeat a part of it."""
    if not content:
        return b"\x00"
    at = rng.randrange(len(content))
    kind = rng.randrange(3)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[:at] + content[at : at + 50] * 40 + content[at:]


# What is read.


class Network(nn.Module):
    """A small network with each kind of layer that a cut meets: tied, depthwise, grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pairs = nn.Conv2d(8, 8, 1, groups=2)
        self.last = nn.Linear(8 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 3) of images (n, 1, 4, 4)."""
        x = self.norm(self.first(x)).relu()
        x = self.pairs(self.deep(x) + x).relu()
        output: Tensor = self.last(x.flatten(1))
        return output


class Files:
    """Files to change, and how each kind is read.

    Args:
        folder: where everything is written.
    """

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.model = Network().eval()
        self.images = torch.randn(8, 1, 4, 4)
        self.labels = torch.arange(8) % 3
        self.metrics = [json.loads(bundled_metrics()[name].read_text()) for name in METRICS]
        pair = Metric.load("l1").with_shares("sqrt(depth) / macs_freed")
        self.metrics += [metric.to_json() for metric in (pair, pair.parts[-1])]
        self.pruned: list[tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]] = []
        for metric, options in (
            ("l1", {"keep_channels": 0.5}),
            ("l2", {"keep_macs": 0.5, "mode": "mask"}),
            ("magnitude", {"keep_params": 0.4}),
        ):
            save_pruned(prune(self.model, metric, self.images, **options), folder / "pruned")
            parts = [
                json.loads((folder / "pruned" / n).read_text())
                for n in ("plan.json", "architecture.json")
            ]
            tensors = load_file(folder / "pruned" / "weights.safetensors")
            self.pruned.append((parts[0], parts[1], tensors))
        compared = CompareSettings(metrics=("l1", "x=abs(b)"), tasks=("lenet-digits",))
        self.settings = [SearchConfig(), GeneticSettings(), AutoencodeSettings(), compared]
        self._make_checkpoint()

    def _make_checkpoint(self) -> None:
        folder = self.folder / "checkpoint"
        with contextlib.suppress(InterruptedError):
            self._tune(folder, stop=True)
        self.facts = json.loads((folder / STATE).read_text())
        self.state = load_file(folder / self.facts["tensors"])

    def _tune(self, folder: Path, *, stop: bool = False) -> None:
        def progress(_: object) -> None:
            if stop:
                raise InterruptedError

        fine_tune(
            copy.deepcopy(self.model), (self.images, self.labels), functional.cross_entropy,
            FineTuning(epochs=2, batch_size=8), checkpoint=folder, progress=progress,
        )  # fmt: skip

    def targets(self) -> dict[str, Callable[[random.Random], None]]:
        """Return how each kind of file is changed and read, by its name."""
        return {
            "metric": self.metric, "plan": self.plan, "architecture": self.architecture,
            "weights": self.weights, "state": self.state_dict, "config": self.config,
            "journal": self.journal, "checkpoint": self.checkpoint,
        }  # fmt: skip

    def metric(self, rng: random.Random) -> None:
        """Change a metric file, and print and score what is accepted."""
        fields = mutate(rng.choice(self.metrics), rng)
        with contextlib.suppress(Exception):
            tree = from_json(fields["expression"], builtin_primitives())
            made = Metric("x", tree, Conventions.from_json(fields["conventions"]))
            fields |= {"text": str(tree), "digest": made.digest, "granularity": made.granularity}
            if rng.random() < 0.9:
                fields["probe_scores"] = made.to_json()["probe_scores"]
        path = self.folder / "metric.json"
        path.write_bytes(dump(fields, rng))
        metric = Metric.load(path)
        metric.scores(synthetic_layer())
        if rng.random() < 0.1:
            metric.latex()
        metric.save(self.folder / "again.json")

    def _load(self, plan: Any, architecture: bytes, weights: bytes, rng: random.Random) -> None:
        """Write a folder of a pruned network whose digests fit, and load it."""
        folder = self.folder / "pruned"
        if isinstance(plan, dict) and rng.random() < 0.95:
            plan["architecture_sha256"] = hashlib.sha256(architecture).hexdigest()
            plan["weights_sha256"] = hashlib.sha256(weights).hexdigest()
        (folder / "plan.json").write_bytes(dump(plan, rng))
        (folder / "architecture.json").write_bytes(architecture)
        (folder / "weights.safetensors").write_bytes(weights)
        with torch.no_grad():
            outputs = load_pruned(folder, self.model)(self.images)
        assert outputs.shape == (8, 3), "what is loaded computes something else"
        assert bool(outputs.isfinite().all()), "what is loaded is not finite"

    def _weights(self, tensors: dict[str, Tensor]) -> bytes:
        path = self.folder / "tensors.safetensors"
        save_file(tensors, path)
        return path.read_bytes()

    def plan(self, rng: random.Random) -> None:
        """Change what goes, or another field of plan.json."""
        plan, architecture, tensors = rng.choice(self.pruned)
        plan = copy.deepcopy(plan)
        if rng.random() < 0.7:
            plan["plan"] = mutate(plan["plan"], rng)
            with contextlib.suppress(Exception):
                if "removed" in plan["plan"]:
                    content: Any = {"removed": plan["plan"]["removed"]}
                else:
                    masks = plan["plan"]["kept"]
                    content = {
                        name: [mask["shape"], hashlib.sha256(
                            PackedMask.from_json(mask, name).bits
                        ).hexdigest()]
                        for name, mask in masks.items()
                    }  # fmt: skip
                plan["plan"]["digest"] = canonical_digest(content)
        else:
            plan = mutate(plan, rng)
        self._load(plan, json.dumps(architecture).encode(), self._weights(tensors), rng)

    def architecture(self, rng: random.Random) -> None:
        """Change architecture.json."""
        plan, architecture, tensors = rng.choice(self.pruned)
        changed = dump(mutate(architecture, rng), rng)
        self._load(copy.deepcopy(plan), changed, self._weights(tensors), rng)

    def weights(self, rng: random.Random) -> None:
        """Change weights.safetensors."""
        plan, architecture, tensors = rng.choice(self.pruned)
        layout = json.dumps(architecture).encode()
        self._load(copy.deepcopy(plan), layout, self._change_tensors(tensors, rng), rng)

    def _change_tensors(self, tensors: dict[str, Tensor], rng: random.Random) -> bytes:
        """Return a safetensors file with other tensors, or with another header."""
        if rng.random() < 0.6:
            tensors = dict(tensors)
            name = rng.choice(list(tensors))
            tensors[name] = odd_tensor(tensors[name], rng)
            if rng.random() < 0.2:
                tensors[name + "x"] = tensors.pop(name)
            return self._weights(tensors)
        content = self._weights(tensors)
        length = int.from_bytes(content[:8], "little")
        if rng.random() < 0.3:
            return damage(content, rng)
        header = dump(mutate(json.loads(content[8 : 8 + length]), rng), rng)
        said = len(header) if rng.random() < 0.9 else rng.choice([0, 2**20, 2**63])
        return said.to_bytes(8, "little") + header + content[8 + length :]

    def state_dict(self, rng: random.Random) -> None:
        """Change a file of weights that a user gives."""
        state = dict(self.model.state_dict())
        if rng.random() < 0.5:
            path = self.folder / "w.safetensors"
            path.write_bytes(self._change_tensors(state, rng))
        else:
            path = self.folder / "w.pt"
            name = rng.choice(list(state))
            odd: Any = {**state, name: odd_tensor(state[name], rng)}
            torch.save(rng.choice([odd, odd, odd, [odd], {1: state[name]}, nn.ReLU()]), path)
            if rng.random() < 0.4:
                path.write_bytes(damage(path.read_bytes(), rng))
        load_weights(copy.deepcopy(self.model), path)

    def config(self, rng: random.Random) -> None:
        """Change settings, as TOML."""
        settings: Settings = rng.choice(self.settings)
        lines = settings.to_toml().splitlines()
        for _ in range(rng.choice([1, 1, 2])):
            at = rng.randrange(len(lines))
            name = lines[at].partition(" = ")[0]
            lines[at] = rng.choice([
                "", f"[{name}]", f"{name} = {name}", f"{name} = 0x{'f' * rng.choice([9, 6000])}",
                f"{name} = {'[' * rng.choice([2, 5000])}", f"{name} = {'9' * 400}", f"{name} = nan",
                f"{name} = -inf", f"{name} = 1979-05-27", f"{name} = [[{name!r}]]", lines[at] * 2,
                f"{name} = {json.dumps(rng.choice([CODE, chr(27), '', 3, -1, 2**64, [], [0]]))}",
                f"{name} = {{a = 1}}", "\x00", f"{'a.' * rng.choice([2, 3000])}a = 1",
            ])  # fmt: skip
        content = "\n".join(lines).encode()
        path = self.folder / CONFIG
        path.write_bytes(damage(content, rng) if rng.random() < 0.2 else content)
        type(settings).from_toml(path)

    def journal(self, rng: random.Random) -> None:
        """Change lines of a journal, and read what is accepted."""
        folder = self.folder / "run"
        folder.mkdir(exist_ok=True)
        entries: list[Any] = [
            {"event": "begin", "run": {"seed": 1, "networks": {"a": "b"}}},
            {"event": "evaluation", "key": "one", "validation": 0.5, "test": None, "raw": 0.1},
            {"event": "evaluation", "key": "two", "validation": 1.0, "test": 0.25, "raw": 0.1,
             "failure": "no"},
            {"event": "evaluation", "key": "both", "members": ["a", "b"], "validation": [0.5, 1.0],
             "test": [None, None], "raw": [0.5, 0.5]},
            {"event": "generation", "number": 3},
        ]  # fmt: skip
        at = rng.randrange(len(entries))
        entries[at] = mutate(entries[at], rng)
        lines = []
        for entry in entries:
            with contextlib.suppress(
                ValueError, RecursionError, TypeError
            ):  # what no run can write
                lines.append(seal(entry))
        content = b"".join(lines)
        if rng.random() < 0.2:
            content = damage(content, rng)
        (folder / JOURNAL).write_bytes(content)
        with Journal(folder, outcome_reader()) as journal:
            for key in ("one", "two", "both", "none"):
                outcome = journal.known(key)
                assert outcome is None or json.dumps(outcome, allow_nan=False)
            journal.event({"event": "more"})

    def checkpoint(self, rng: random.Random) -> None:
        """Change a checkpoint of fine-tuning, and resume from it."""
        folder = self.folder / "resumed"
        for path in folder.glob("*"):
            path.unlink()
        facts, tensors = copy.deepcopy(self.facts), dict(self.state)
        name = rng.choice(list(tensors))
        if rng.random() < 0.5:
            tensors[name] = odd_tensor(tensors[name], rng)
            if rng.random() < 0.2:
                tensors[name.replace("0", "7") + "x"] = tensors.pop(name)
        else:
            facts["history"] = mutate(facts["history"], rng)
        digest = write_tensors(folder, "fine-tuning-{:.16}.safetensors", tensors)
        facts |= {"tensors": f"fine-tuning-{digest:.16}.safetensors", "tensors_sha256": digest}
        if rng.random() < 0.2:
            facts = mutate(facts, rng)
        (folder / STATE).write_bytes(dump(facts, rng))
        self._tune(folder)


def odd_tensor(tensor: Tensor, rng: random.Random) -> Tensor:
    """Return another tensor in the place of one."""
    tensor = tensor.clone()
    kind = rng.randrange(4)
    if kind == 0:
        types = [torch.float16, torch.float64, torch.bfloat16, torch.int8, torch.uint8, torch.bool,
                 torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64]  # fmt: skip
        return tensor.to(rng.choice(types))
    if kind == 1 and tensor.numel():
        value = rng.choice([float("nan"), float("inf"), -1e30, 5.0, -1.0, 0.5])
        with contextlib.suppress(RuntimeError, OverflowError):
            tensor.view(-1)[rng.randrange(tensor.numel())] = value
        return tensor
    if kind == 2:
        return tensor.flatten() if tensor.ndim > 1 else tensor.reshape(1, -1)
    return torch.zeros(rng.choice([(), (0,), (3, 0, 2), (1000,), (2, 2)]), dtype=tensor.dtype)


# Watching.


class Watch:
    """What a process does while it reads: files that it opens to write, and code that it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.seen: list[str] = []
        self.active = False
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            path = os.path.realpath(os.fsdecode(arguments[0]))
            outside = not path.startswith(self.folder) and "__pycache__" not in path
            if writes and outside and path != os.devnull:
                self.seen.append(f"writes {path}")
        elif event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "socket.connect",
        ):
            self.seen.append(f"{event} {arguments!r:.100}")
        elif event == "compile" and "run-by-fuzzing" in str(arguments[0]):
            self.seen.append("compiles code of a file")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside; raise AssertionError at the end if something was seen."""
        self.seen, self.active = [], True
        try:
            yield
        finally:
            self.active = False
        assert not self.seen, self.seen[0]


def run(files: Files, watch: Watch, number: int, name: str) -> Fault | None:
    """Make and read one mutation; return what was wrong."""

    def hang(*_: object) -> None:
        raise Hang(f"more than {SECONDS} s")

    rng = random.Random(f"{SEED} {number}")
    signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    started = time.monotonic()
    try:
        with watch.watching(), warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            try:
                files.targets()[name](rng)
            except UserError as error:
                sentence = str(error)
                assert sentence and len(sentence) < 2000, f"a message of {len(sentence)} characters"
    except (Exception, Hang) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Fault(number, name, f"{type(error).__name__}: {error!s:.200} ({where})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - started > SECONDS:
        return Fault(number, name, f"took more than {SECONDS} s")
    return None


def fuzz(folder: Path, first: int, count: int, only: tuple[str, ...] = ()) -> list[Fault]:
    """Make and read many mutations, each kind of file in turn.

    Args:
        folder: an empty folder.
        first: number of the first mutation.
        count: how many.
        only: kinds of files; all by default.
    """
    torch.set_num_threads(1)
    files, watch = Files(folder), Watch(folder)
    names = list(files.targets())
    faults: list[Fault] = []
    for number in range(first, first + count):
        name = names[number % len(names)]
        if not only or name in only:
            fault = run(files, watch, number, name)
            if fault:
                faults.append(fault)
                print(*fault, flush=True)
    peak = measure_peak()
    if peak > MOST_MEMORY:
        faults.append(Fault(-1, "all", f"{peak / 2**20:.0f} MB of memory"))
        print(*faults[-1])
    print(f"{count} mutations, {len(faults)} faults, {peak / 2**20:.0f} MB")
    return faults


def measure_peak() -> int:
    """Return the most bytes that this program has taken.

    The system's own count of a process begins with what the one before it took.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(bool(fuzz(Path(folder), given.first, given.mutations, tuple(given.only))))


if __name__ == "__main__":
    main()
