"""When to save, how ranks commit together, and what they resume from."""

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from runtime.base.errors import SlipwayError, UserError
from runtime.base.log import Log
from runtime.checkpoint import randomness
from runtime.checkpoint.layout import (
    MANIFEST,
    STATE,
    FileFacts,
    Manifest,
    candidates,
    checkpoint_name,
    directories,
    rank_file,
)
from runtime.checkpoint.store import (
    commit,
    num_bytes,
    read_file,
    remove,
    require_plain,
    require_room,
    write_file,
)
from runtime.strategies import unwrap
from runtime.version import __version__
from runtime.world import World

log = Log("checkpoint")

FIRST_SAVE_S = 30.0
"""When no interval is given: seconds to the first save, whose cost sets the rest."""
COST_SHARE = 0.02
"""When no interval is given: share of the time that saving may take."""


class Stateful(Protocol):
    """What a part must offer; torch's own protocol."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:  # noqa: ANN401 - models return a report, optimizers nothing
        """Take a state."""
        ...


class Checkpointer:
    """The checkpoints of one run."""

    def __init__(self, root: Path | None, world: World, *, job: str, keep: int) -> None:
        """Remember where.

        Args:
            root: directory of checkpoints; None: nothing is saved, since nothing would outlive the container.
            world: for the agreement of ranks.
            job: its name, for the manifest.
            keep: complete checkpoints to keep.
        """
        self._root = root
        self._world = world
        self._job = job
        self._keep = keep
        self._parts: dict[str, Stateful] = {}
        self._every_s: float | None = None
        self._every_steps: int | None = None
        self._by_cost = False
        self._due_at = 0.0
        self._run_id = ""
        self._beginning: int | None = None
        self._random_state: Mapping[str, Any] | None = None
        self._began = time.time()
        self.saved_step = -1

    @property
    def active(self) -> bool:
        """Whether there is something to save and a place for it."""
        return self._root is not None and bool(self._parts)

    def register(self, parts: Mapping[str, Stateful], *, every_s: float | None, every_steps: int | None) -> None:
        """Take the parts, and the rule when to save them.

        Raises:
            UserError: a part without state_dict, an impossible interval, or a directory without room.
        """
        for name, part in parts.items():
            if not callable(getattr(part, "state_dict", None)) or not callable(getattr(part, "load_state_dict", None)):
                raise UserError(
                    f"run.checkpoint({name}=...) got a {type(part).__qualname__} without state_dict/load_state_dict",
                    fix="pass models, optimizers, schedulers, run.data objects, or give your class both methods",
                )
        for name, value in (("every_s", every_s), ("every_steps", every_steps)):
            if value is not None and value <= 0:
                raise UserError(f"run.checkpoint({name}={value!r})", allowed=f"{name} is above 0, or None")
        self._parts = dict(parts)
        self._every_s, self._every_steps = every_s, every_steps
        self._by_cost = every_s is None and every_steps is None
        if self._by_cost:
            self._every_s = FIRST_SAVE_S
        self._schedule()
        if self._root is None:
            log.warning("no checkpoint is written: the job has no CheckpointConfig and no /opt/ml/checkpoints")

    def time_is_up(self) -> bool:
        """Whether this rank's clock asks for a save; the ranks agree before they act."""
        return self.active and self._every_s is not None and time.monotonic() >= self._due_at

    def steps_are_up(self, step: int) -> bool:
        """Whether the step number asks for a save; the same on every rank."""
        return self.active and self._every_steps is not None and step % self._every_steps == 0

    def save(self, step: int) -> tuple[float, int]:
        """Save all parts as of `step`; every rank calls this.

        Returns:
            Seconds, and bytes of the whole checkpoint.

        Raises:
            UserError: no space left, or a part that cannot be saved safely.
            PlatformError: the disk failed.
        """
        assert self._root is not None  # noqa: S101 - `active` is asked first
        began = time.monotonic()
        if not self._run_id:
            # One name for all ranks, another one for each attempt: a directory is never written twice.
            self._run_id = self._world.gather(secrets.token_hex(3))[0]
        if self._beginning is None:
            # Nothing was resumed: older checkpoints may have higher steps, and must not hide or outlive ours.
            old = candidates(self._root, refuse_newer=False).values()
            self._beginning = 1 + max((manifest.beginning for manifest in old), default=-1)
        directory = self._root / checkpoint_name(step, self._run_id)
        mine: list[FileFacts] | SlipwayError
        try:
            mine = self._write_mine(directory, step)
        except SlipwayError as error:
            mine = error
        # Every rank must learn of an error before anyone commits; all of them end with the same one.
        told = self._world.gather(mine)
        failed = next((error for error in told if isinstance(error, SlipwayError)), None)
        if failed is not None:
            raise mine if isinstance(mine, SlipwayError) else failed
        files = tuple(sorted((facts for some in told for facts in cast(list[FileFacts], some)), key=lambda f: f.name))
        if self._world.place.rank == 0:
            size, beginning = self._world.place.world_size, self._beginning
            commit(directory, Manifest(step, size, files, self._job, __version__, beginning))
        # Also the barrier: nobody goes on, or leaves, before the checkpoint exists.
        kept = self._world.gather(self._kept() if self._world.place.rank == 0 else [])[0]
        if self._world.place.local_rank == 0:
            self._retire(kept)
        self.saved_step = step
        seconds = time.monotonic() - began
        size = sum(facts.num_bytes for facts in files)
        if self._by_cost:
            self._every_s = max(FIRST_SAVE_S, seconds / COST_SHARE)
        self._schedule()
        log.info(f"saved {directory.name} ({size / 2**20:.1f} MiB, {seconds:.2f} s)")
        return seconds, size

    def resume(self, *, own_only: bool = False) -> int:
        """Load the newest checkpoint that is whole on every rank into the parts; every rank calls this.

        Args:
            own_only: leave out what other jobs wrote: a job that begins anew still survives its own interruptions.

        Returns:
            Its step; 0 when there is none.

        Raises:
            UserError: the checkpoint is of another world or another set of parts.
        """
        if self._root is None:
            return 0
        have = candidates(self._root, refuse_newer=not own_only)
        if own_only:
            have = {name: manifest for name, manifest in have.items() if manifest.job == self._job}
        common = set.intersection(*(set(names) for names in self._world.gather(list(have))))
        for name in [name for name in have if name in common]:
            manifest = have[name]
            self._check_world(name, manifest)
            states, fault = self._read(self._root / name, manifest)
            faults = [f"rank {rank}: {text}" for rank, text in enumerate(self._world.gather(fault)) if text]
            if faults or states is None:
                log.warning(f"{name} is not whole ({faults[0]}): looking for an older one")
                continue
            self._apply(name, *states)
            self.saved_step = manifest.step
            # A damaged newer one was passed over: what we save must count as newer than that one.
            self._beginning = manifest.beginning if name == next(iter(have)) else None
            log.info(f"resumed from {name}, written by {manifest.world_size} ranks")
            return manifest.step
        if have and not common:
            log.warning(f"{len(have)} checkpoints here, but none on every host: beginning anew")
        return 0

    def restore_randomness(self) -> None:
        """Set the generators once more, right before the first batch: nothing in between may have drawn."""
        if self._random_state is not None:
            randomness.restore(self._random_state)
            self._random_state = None

    def _write_mine(self, directory: Path, step: int) -> list[FileFacts]:
        own = {"step": step, "random": randomness.capture()}
        shared: dict[str, Any] | None = None
        if self._world.place.rank == 0:
            parts = {name: cast(Stateful, unwrap(part)).state_dict() for name, part in self._parts.items()}
            shared = {"step": step, "parts": parts}
            if self.saved_step < 0:
                for name, state in parts.items():
                    require_plain(state, name)
        assert self._root is not None  # noqa: S101 - see save
        # 64 KiB per file for the container format around the tensors.
        require_room(self._root, num_bytes(shared) + num_bytes(own) + (1 << 17), f"checkpoint {directory.name}")
        files = [write_file(directory, rank_file(self._world.place.rank), own)]
        if shared is not None:
            files.append(write_file(directory, STATE, shared))
        return files

    def _read(self, directory: Path, manifest: Manifest) -> tuple[tuple[Any, Any] | None, str]:
        shared, own = manifest.facts(STATE), manifest.facts(rank_file(self._world.place.rank))
        if shared is None or own is None:
            return None, "its manifest lacks a file"
        try:
            return (read_file(directory, shared), read_file(directory, own)), ""
        except Exception as error:
            return None, f"{error}"

    def _check_world(self, name: str, manifest: Manifest) -> None:
        if manifest.world_size != self._world.place.world_size:
            raise UserError(
                f"Checkpoint {name} was written by {manifest.world_size} ranks; this job has "
                f"{self._world.place.world_size}",
                fix=f"use {manifest.world_size} ranks, or begin anew with slipway_resume=off",
            )

    def _apply(self, name: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        saved: Mapping[str, Any] = shared["parts"]
        if set(saved) != set(self._parts):
            raise UserError(
                f"Checkpoint {name} holds {', '.join(sorted(saved))}; run.checkpoint was given "
                f"{', '.join(sorted(self._parts))}",
                fix="give the same parts, or begin anew with slipway_resume=off",
            )
        for part, state in saved.items():
            try:
                cast(Stateful, unwrap(self._parts[part])).load_state_dict(state)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"Part {part!r} of checkpoint {name} does not fit: {error}",
                    fix="run the code and hyperparameters that wrote it, or begin anew with slipway_resume=off",
                ) from error
        self._random_state = own["random"]
        randomness.restore(own["random"])

    def _kept(self) -> list[str]:
        """Name what stays, as rank 0 sees it: the newest `keep`, and what a newer runtime wrote."""
        assert self._root is not None  # noqa: S101 - see save
        ours = list(candidates(self._root, refuse_newer=False))
        committed = [name for name in directories(self._root) if (self._root / name / MANIFEST).exists()]
        return [*ours[: self._keep], *(name for name in committed if name not in ours)]

    def _retire(self, kept: Sequence[str]) -> None:
        """Each host removes the rest from its own disk; hosts but the first hold no manifest of their own.

        A directory without a manifest may be another job's save under way: it goes only when it is ours, or older
        than this run.
        """
        assert self._root is not None  # noqa: S101 - see save
        for name in directories(self._root):
            directory = self._root / name
            if name in kept:
                continue
            try:
                dead = directory.stat().st_mtime < self._began or name.endswith(f".{self._run_id}")
            except OSError:
                continue  # another host of a shared file system was quicker
            if dead or (directory / MANIFEST).exists():
                remove(directory)

    def _schedule(self) -> None:
        self._due_at = time.monotonic() + (self._every_s or 0.0)
