"""One index of the parts that hosts or jobs have built."""

from collections.abc import Sequence
from pathlib import Path

from runtime.base.errors import UserError
from runtime.data.index.segments import Built, assemble, read_built, segments_of
from runtime.data.index.tasks import Share


def merge(parts: Sequence[Path], out: Path) -> Built:
    """Make one index of the parts that hosts or jobs have built.

    Raises:
        UserError: a part is missing, comes twice, or is of another tree or other options.
    """
    found: dict[int, tuple[Path, Built]] = {}
    for path in parts:
        built = read_built(path)
        if built is None:
            raise UserError(f"{path} holds no index", fix="build it: slipway index")
        if built.share[0] in found:
            raise UserError(f"{path} and {found[built.share[0]][0]} are the same part {built.share[0] + 1}")
        found[built.share[0]] = (path, built)
    if not found:
        raise UserError("No parts to merge")
    whole = next(iter(found.values()))[1]
    for path, built in found.values():
        if (built.options, built.share[1]) != (whole.options, whole.share[1]):
            raise UserError(f"{path} was built with other options, or as a part of another number of parts")
    missing = sorted(set(range(whole.share[1])) - set(found))
    if missing:
        told = ", ".join(str(number + 1) for number in missing)
        raise UserError(f"Of {whole.share[1]} parts these are missing: {told}", fix="build them, then merge")
    segments = [
        segment
        for number, (path, built) in found.items()
        for segment in segments_of(path, built)
        if Share(number, whole.share[1]).owns(*segment.key)  # of the others' directories it only knows that they exist
    ]
    out.mkdir(parents=True, exist_ok=True)
    return assemble(segments, out, root=whole.root, options=whole.options, share=(0, 1))
