"""Shards through real ranks: an epoch is begun by one world and ended by another, every sample counted once."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.data.formats.probe import SPAN_FORMATS
from tests.dist.conftest import Ended

COUNT = 103
SCRIPT = """
import json, pathlib, runtime

def train(run: runtime.Run, batch_size: int, into: str, state: str, workers: int = 0, last: str = "short"):
    data = run.data("train", batch_size=batch_size, workers=workers, last=last)
    here = pathlib.Path(state)
    if here.exists():
        data.load_state_dict(json.loads(here.read_text()))
    with open(f"{into}/rank-{run.rank}.jsonl", "w") as out:
        for _ in run.epochs(data, 1):
            for batch in data:
                x, y = batch
                labels = [int(label) for label in y][: batch.num_samples]
                out.write(json.dumps([data.position, len(y), labels]) + "\\n")
                run.step()
                position = data.state_dict()
    assert len({json.dumps(each) for each in run.world.gather(position)}) == 1, "every rank has the same position"
    if run.rank == 0:
        here.write_text(json.dumps(position))

runtime.main(train)
"""
"""The position by itself: a checkpoint of a model belongs to the world that wrote it."""


def write(root: Path, form: str) -> Path:
    root.mkdir()
    for number in range(0, COUNT, 20):
        with (root / f"part-{number:03}").open("wb") as stream:
            writer = SPAN_FORMATS[form]().writer(stream)  # pyright: ignore
            for n in range(number, min(COUNT, number + 20)):
                writer.write({"label": float(n), "a": float(n)} if form in ("csv", "jsonlines") else record(n))
            writer.close()
    return root


def record(n: int) -> dict[str, object]:
    import numpy as np

    return {"values": np.full(3, n, np.float32), "label": np.array([n], np.float32)}


@pytest.mark.parametrize(
    ("form", "last", "first", "second"),
    [
        ("recordio-protobuf", "short", (2, 1, 4, 0), (1, 3, 5, 1)),
        ("jsonlines", "pad", (1, 2, 7, 1), (2, 2, 3, 0)),
    ],
)
def test_an_epoch_goes_on_in_another_world(
    form: str,
    last: str,
    first: tuple[int, int, int, int],
    second: tuple[int, int, int, int],
    tmp_path: Path,
    slipway_run: Callable[..., Ended],
) -> None:
    """(hosts, ranks per host, batch size, loader workers) of both lives."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    root = write(tmp_path / "data", form)
    seen: Counter[int] = Counter()
    for life, ((hosts, ranks, batch_size, workers), steps) in enumerate(((first, 4), (second, 0))):
        into = tmp_path / f"life-{life}"
        into.mkdir()
        words = ["--entrypoint", script, "--channel", f"train={root}", "--hp", f"state={tmp_path / 'state.json'}"]
        words += [
            "--hosts",
            hosts,
            "--procs-per-host",
            ranks,
            "--hp",
            f"batch_size={batch_size}",
            "--hp",
            f"into={into}",
        ]
        words += ["--hp", f"workers={workers}", "--hp", f"last={last}"]
        ended = slipway_run(*words, *(["--max-steps", steps] if steps else []), name=f"out-{life}")
        assert ended.exit_code == 0, ended.text
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(into.glob("rank-*"))]
        assert len(lines) == hosts * ranks
        assert len({len(each) for each in lines}) == 1, "ranks had different numbers of batches"
        assert all(size > 0 for each in lines for _, size, _ in each)
        seen.update(label for each in lines for _, _, labels in each for label in labels)
        if life == 0:
            assert len(lines[0]) == 4
            assert sum(seen.values()) == 4 * hosts * ranks * batch_size
    assert seen == Counter(range(COUNT))
