"""`Run`: what a training function gets. It composes the services of a rank and does nothing else.

The loop stays the author's: no base class, no callback, no replaced verb.
"""

# `Run` and its `_DataHooks` are one thing in two classes.
# pyright: reportPrivateUsage=false

import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, cast

from runtime.base.env import Environ
from runtime.base.errors import Stopped, UserError
from runtime.base.log import Log
from runtime.contract.job import Job
from runtime.contract.settings import Settings
from runtime.progress_slot import ProgressSlot
from runtime.world import PendingBits, Place, World

if TYPE_CHECKING:
    import torch

    from runtime.checkpoint.manager import Stateful
    from runtime.data.loader import Data, Extent, OnBad, Transform
    from runtime.data.order import Last
    from runtime.profile.phases import Phase

log = Log("run")

STOP, SAVE = 1, 2
"""Bits on which the ranks agree at each step."""


class StopRequest:
    """Set by a signal handler, looked at between steps."""

    def __init__(self) -> None:
        self.reason = ""


class Run:
    """One rank's view of the job."""

    def __init__(self, job: Job, settings: Settings, environ: Environ, stop: StopRequest) -> None:
        """Compose the services; no socket is opened before the ranks need each other.

        Args:
            job: as read from the contract.
            settings: resolved.
            environ: this process's.
            stop: where the signal handler leaves its word.
        """
        from runtime.checkpoint.manager import Checkpointer
        from runtime.metrics import MetricLog
        from runtime.profile.phases import StepTimer

        self.job = job
        """The contract, read: channels, hosts, hyperparameters, paths."""
        self.place = Place.from_environ(environ)
        self.world = World(self.place, settings.rendezvous_s, self._leave_before_joining)
        self._settings = settings
        self._stop = stop
        self._step = 0
        self._epoch = 0
        self._resumed_step = 0
        self._pending: PendingBits | None = None
        self._data: list[Data] = []
        self._on_bad: dict[str, OnBad] = {}
        self._fed_by: _DataHooks | None = None
        self._epochs_asked: int | None = None
        self._device: torch.device | None = None
        self._state_dir = (
            Path(environ["SLIPWAY_STATE_DIR"]) if "SLIPWAY_STATE_DIR" in environ else Path(job.paths.state)
        )
        self._progress = ProgressSlot(self._state_dir / "progress", self.place.local_rank)
        self._report_progress()
        leads = self.rank == 0 and job.under_contract
        self._metrics = MetricLog(
            self._state_dir / "metrics.jsonl" if leads else None,
            settings.metrics_every_s,
            speaks=self.rank == 0,
        )
        profile = settings.profile and job.under_contract
        self._timer = StepTimer(
            Path(job.paths.profiler) / f"steps-rank-{self.rank}.jsonl" if profile else None,
            {"host": job.current_host, "rank": self.rank, "world_size": self.world_size},
        )
        self._timer.watch_optimizers()
        found = Path(job.checkpoint_path or job.paths.checkpoints)
        root = found if job.checkpoint_path or found.is_dir() else None
        self._checkpointer = Checkpointer(root, self.world, job=job.arn or job.name, keep=settings.keep_checkpoints)

    # --- who we are ---------------------------------------------------------------------------------------------

    @property
    def rank(self) -> int:
        """Global rank, in [0, world_size)."""
        return self.place.rank

    @property
    def local_rank(self) -> int:
        """Rank on this host."""
        return self.place.local_rank

    @property
    def world_size(self) -> int:
        """Ranks over all hosts."""
        return self.place.world_size

    @property
    def device(self) -> "torch.device":
        """This rank's device."""
        if self._device is None:
            self._device = self.world.device()
        return self._device

    @property
    def stopping(self) -> bool:
        """Whether the job must stop, agreed by all ranks; for loops of your own that do not call `step`.

        Every rank must ask equally often. Save what you need and return.
        """
        return bool(self.world.start_or(STOP if self._stop.reason else 0).result() & STOP)

    # --- services -----------------------------------------------------------------------------------------------

    def wrap(self, model: "torch.nn.Module") -> "torch.nn.Module":
        """Move a model to this rank's device and spread it over the ranks (``slipway_strategy``)."""
        from runtime.strategies import wrap

        return wrap(model, self.world, self.device, self._settings.strategy)

    def data(
        self,
        channel: str | Mapping[str, float],
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        workers: "int | str" = "auto",
        last: "Last" = "short",
        on_bad: "OnBad" = "raise",
        transform: "Transform | None" = None,
    ) -> "Data":
        """Open a channel: batches ``(x, y)`` on this rank's device.

        Args:
            channel: its name in the job; or several by weight, such as ``{"web": 0.7, "books": 0.3}``.
            batch_size: samples per rank and step, at least 1.
            seed: of the shuffle; another epoch gets another order from the same seed.
            shuffle: False keeps the order of the index.
            workers: loader processes per rank; ``auto``: CPUs per rank less one, at most 8; 0: in this process.
            last: the last global batch: ``short`` divides it evenly, ``pad`` fills it up, ``drop`` leaves it out.
            on_bad: an unreadable sample: ``raise`` ends the job and names the file; ``skip`` makes its batch smaller,
                ``replace`` puts another one in its place (as padding), and both count, warn, keep its name in
                ``/opt/ml/output/data`` and end the job beyond slipway_bad_most and slipway_bad_share.
            transform: from a sample's array to a tensor, or from a whole record to ``(x, y)``; None: images become
                float32 in [0, 1], channels first.

        Raises:
            UserError: no such channel, nothing to read in it, an impossible argument, a damaged image.
        """
        from runtime.data.loader import Data
        from runtime.data.mixing import open_channels, weights_of
        from runtime.data.order import Division
        from runtime.data.policy import ON_BAD, BadSamples, Bounds, record_name
        from runtime.data.storage import look

        if batch_size < 1:
            raise UserError(f"run.data({channel!r}, batch_size={batch_size})", allowed="batch_size is at least 1")
        for name, value, choices in (
            ("last", last, ("short", "pad", "drop")),
            ("on_bad", on_bad, ON_BAD),
        ):
            if value not in choices:
                raise UserError(f"run.data({channel!r}, {name}={value!r})", allowed=f"{name} is one of {choices}")
        weights = weights_of(channel)
        channels = [self.job.channel(name) for name in weights]
        if len(channels) == 1 and channels[0].input_mode == "Pipe":
            from runtime.data.pipe import PipeData

            self._on_bad[channels[0].name] = on_bad
            record = Path(self.job.paths.output_data) / record_name(self.rank) if self.job.under_contract else None
            piped = PipeData.of_channel(
                channels[0],
                self._settings,
                self.place,
                batch_size=batch_size,
                seed=seed,
                shuffle=shuffle,
                last=last,
                workers=self._loader_workers(workers),
                on_bad=on_bad,
                transform=transform,
                device=self.device,
                hooks=_DataHooks(self, sharded=channels[0].distribution == "ShardedByS3Key"),
                bad=BadSamples(channels[0].name, 0, Bounds(self._settings.bad_most, self._settings.bad_share), record),
            )
            self._data.append(piped)
            return piped
        source, mix = open_channels(channels, list(weights.values()), whole=on_bad == "raise")
        channel = "+".join(weights)
        # Hosts of a sharded channel hold different files: only the ranks of one host share them.
        sharded = channels[0].distribution == "ShardedByS3Key" and self.place.num_hosts > 1
        ranks = self.place.local_world_size if sharded else self.world_size
        rank = self.local_rank if sharded else self.rank
        if self.local_rank == 0:  # one word per host is enough
            for text in look(
                channels[0].path,
                source.about.some,
                count=source.about.files,
                median_bytes=source.about.median_bytes,
                mode=channels[0].input_mode,
            ):
                log.warning(f"channel {channels[0].name!r}: {text}")
        damaged = source.find_damaged(range(rank, len(source), ranks)) if on_bad == "raise" else ""
        if damaged:
            raise UserError(f"Channel {channel!r}: {damaged}", fix="replace or remove the file, or use on_bad='skip'")
        data = Data(
            source,
            name=channel,
            division=Division(batch_size, rank, ranks, last, shards=self.world_size // ranks),
            seed=seed,
            shuffle=shuffle,
            workers=self._loader_workers(workers),
            on_bad=on_bad,
            transform=transform,
            device=self.device,
            sample=self._settings.sample,
            hooks=_DataHooks(self, sharded=sharded),
            mix=mix,
            bad=BadSamples(
                channel,
                len(source),
                Bounds(self._settings.bad_most, self._settings.bad_share),
                Path(self.job.paths.output_data) / record_name(self.rank) if self.job.under_contract else None,
                shard=self.rank // ranks,
            ),
            # A model that is trained on the CPU needs one itself.
            cpus=max(0, self._cpus - (self.device.type == "cpu")),
        )
        self._on_bad[channel] = on_bad
        log.info(
            f"channel {channel!r}: {data.num_samples} of {data.num_samples_in_channel} samples, global batch "
            f"{data.global_batch} over {self.world_size} ranks{' (each host its own files)' if sharded else ''}"
        )
        self._data.append(data)
        return data

    def checkpoint(self, *, every_s: float | None = None, every_steps: int | None = None, **parts: "Stateful") -> int:
        """Save these parts from time to time, and continue from the newest complete checkpoint now.

        Args:
            every_s: seconds between saves. None and no `every_steps`: as often as saving costs 2 % of the time.
            every_steps: steps between saves.
            parts: by name, anything with state_dict and load_state_dict: model, optimizer, scheduler, data.

        Returns:
            The step from which the run continues; 0: it begins anew.

        Raises:
            UserError: a part without state_dict, or a checkpoint that does not fit this run.
        """
        self._checkpointer.register(parts, every_s=every_s, every_steps=every_steps)
        for data in self._data:
            if data in parts.values():
                data.agree()  # now, while every rank is here: later rank 0 alone asks for its state
        if self._settings.resume == "off":
            log.info(f"earlier jobs' checkpoints are left out because {self._settings.origin('resume')} says so")
            # Without the job's ARN nobody can tell a restart of this job from an earlier job of the same name.
            if not self.job.arn:
                return 0
        self._step = self._resumed_step = self._checkpointer.resume(own_only=self._settings.resume == "off")
        if self._step:
            self._timer.event("resumed", step=self._step)
            if self.rank == 0:
                _write_json(self._state_dir / "resumed.json", {"step": self._step})
        return self._step

    def epochs(self, data: "Data", count: int) -> Iterator[int]:
        """Yield epoch numbers from where the data stands up to `count`."""
        self._epochs_asked = count
        while data.epoch < count and not self._at_end():
            epoch = self._epoch = data.epoch
            yield epoch
            if data.epoch == epoch and not self._at_end():
                data.next_epoch()  # the body left the epoch early

    def step(self, **values: SupportsFloat) -> None:
        """Tell that an optimizer step is done; call it once per step, on every rank.

        In this order: count; metric line when due; checkpoint when due or when all ranks agree to stop; phase times.

        Args:
            values: such as ``loss=loss``, this rank's own; read from the device only when a line is due.

        Raises:
            Stopped: all ranks agreed to stop, and what was registered is saved. Let it pass.
        """
        self._step += 1
        if self._fed_by is not None:
            self._fed_by.trains = True
        self._report_progress()
        self._metrics.maybe(self._step, self._epoch, values)
        agreed = self._agree()
        if agreed & STOP or agreed & SAVE or self._checkpointer.steps_are_up(self._step):
            self._save()
        self._timer.step(self._step, self._epoch)
        if agreed & STOP:
            reason = self._stop.reason or "another rank"
            raise Stopped(step=self._step, reason=reason)

    def metrics(self, **values: SupportsFloat) -> None:
        """Write a metric line now, such as ``run.metrics(validation_accuracy=0.97)``; rank 0's values are taken."""
        self._metrics.write(self._step, self._epoch, values)
        self._report_progress()

    @contextlib.contextmanager
    def span(self, name: str) -> Generator[None]:
        """Time something that is no part of a step, such as validation."""
        with self._timer.span(name):
            yield
        self._report_progress()

    def save_model(self, model: "torch.nn.Module", **facts: object) -> None:
        """Write the model's weights to ``/opt/ml/model/model.pt``; every rank may call, rank 0 writes.

        Args:
            model: as returned by `wrap`, or not wrapped.
            facts: JSON-able things that whoever loads it must know; they go to ``model.json``.

        Raises:
            PlatformError: it cannot be written.
        """
        if self.rank != 0:
            return
        from runtime.model_file import write_model
        from runtime.strategies import unwrap

        state = cast("torch.nn.Module", unwrap(model)).state_dict()
        write_model(Path(self.job.paths.model), state, {"step": self._step, "world_size": self.world_size, **facts})
        self._report_progress()

    # --- for runtime.main ---------------------------------------------------------------------------------------

    @property
    def steps_done(self) -> int:
        """Last finished step of the job, over all attempts."""
        return self._step

    def whereabouts(self) -> dict[str, object]:
        """Say how far this rank is, without asking the others: step, epoch, and the position in each channel."""
        data = [
            {"channel": d.name, "seed": d.seed, "epoch": d.epoch, "batch": d.position, "global_batch": d.global_batch}
            for d in self._data
        ]
        return {"step": self._step, "resumed_step": self._resumed_step, "epoch": self._epoch, "data": data}

    def finish(self) -> None:
        """End in good order, with all ranks."""
        self._metrics.close()
        self._write_summary()
        self._share_bad_samples(judge=False)  # the work is done: nothing is won by throwing it away
        if self.rank == 0:
            self._tell_bad_samples()
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        self._timer.close()
        self.world.leave()

    def abandon(self) -> None:
        """End without the others: only what is ours alone."""
        self._tell_bad_samples()
        self._timer.close()

    # --- inside -------------------------------------------------------------------------------------------------

    def _agree(self) -> int:
        """Combine this rank's wishes with the others', one step late: nobody waits for an answer."""
        wishes = (STOP if self._stop.reason else 0) | (SAVE if self._checkpointer.time_is_up() else 0)
        if self.world_size == 1:
            return wishes
        agreed = self._pending.result() if self._pending is not None else 0
        self._pending = self.world.start_or(wishes)
        return agreed

    def _leave_before_joining(self) -> None:
        if self._stop.reason:
            raise Stopped(step=self._step, reason=self._stop.reason)

    def _report_progress(self) -> None:
        """Tell the launcher of the last finished step, and that we still move."""
        self._progress.report(self._step)

    def _save(self) -> None:
        if not self._checkpointer.active or self._checkpointer.saved_step == self._step:
            return
        self._timer.enter("checkpoint")
        self._share_bad_samples()
        seconds, size = self._checkpointer.save(self._step)
        self._timer.enter("other")
        self._timer.event("checkpoint", step=self._step, seconds=round(seconds, 6), bytes=size)
        self._report_progress()

    def _share_bad_samples(self, *, judge: bool = True) -> None:
        """Let every rank know what all have found; every rank calls this at the same points of the job."""
        if self.world_size > 1 and not self.world.joined:
            return
        told = self.world.gather([(data.name, data.bad.fresh(), data.bad.seen) for data in self._data])
        for data in self._data:
            mine = [(found, seen) for rank in told for name, found, seen in rank if name == data.name]
            data.bad.hear([bad for found, _ in mine for bad in found], sum(seen for _, seen in mine), judge=judge)

    def _tell_bad_samples(self) -> None:
        for data in self._data:
            summary = data.bad.conclude(data.epoch, self._on_bad[data.name])
            if summary:
                log.warning(summary)

    def _at_end(self) -> bool:
        return 0 < self._settings.max_steps <= self._step

    def _loader_workers(self, workers: "int | str") -> int:
        from runtime.data.loader import AUTO_WORKERS_MOST

        if workers == "auto":
            return max(0, min(AUTO_WORKERS_MOST, self._cpus - 1))
        if not isinstance(workers, int) or workers < 0:
            raise UserError(f"run.data(workers={workers!r})", allowed="workers is 'auto' or a number of at least 0")
        return workers

    @property
    def _cpus(self) -> int:
        """CPUs for this rank."""
        return len(os.sched_getaffinity(0)) // self.place.local_world_size

    def _write_summary(self) -> None:
        """Leave what the local platform needs to project a full run."""
        if self.rank != 0 or not self.job.under_contract:
            return
        channels = {
            d.name: {"samples": d.num_samples, "samples_in_channel": d.num_samples_in_channel} for d in self._data
        }
        summary: Mapping[str, object] = {
            "steps": self._step - self._resumed_step,
            "step_s_median": self._timer.median_step_s(),
            "epochs": self._epochs_asked,
            "global_batch": self._data[0].global_batch if self._data else 0,
            "seconds": self._timer.seconds(),
            "channels": channels,
        }
        _write_json(self._state_dir / "summary.json", summary)


class _DataHooks:
    """What one `Data` tells its Run, and asks it; a part of `Run` that every channel has for itself."""

    def __init__(self, run: Run, *, sharded: bool) -> None:
        self._run = run
        self._sharded = sharded
        self.trains = False
        """Whether a step was ever made with a batch of this channel: only then does the end of the steps end it."""

    def enter(self, phase: "Phase") -> None:
        if phase == "compute":
            self._run._fed_by = self
            self._run._report_progress()  # a batch has come: a long validation pass stands not still
        self._run._timer.enter(phase)

    def before_first_batch(self) -> None:
        self._run._checkpointer.restore_randomness()

    def at_end(self) -> bool:
        return self.trains and self._run._at_end()

    def gather_address(self, address: bytes) -> bytes:
        place = self._run.place
        return self._run.world.gather(address)[place.rank - place.local_rank]

    def combine(self, bits: int, width: int) -> PendingBits:
        return self._run.world.start_or(bits, width)

    def agree(self, channel: str, mine: "Extent") -> "Extent":
        """Return the extent of a channel over all hosts.

        Raises:
            UserError: hosts see different files in a channel that should be the same everywhere.
        """
        told = self._run.world.gather(mine)
        if len(set(told)) == 1:
            return mine
        if not self._sharded:
            raise UserError(
                f"The hosts see different files in channel {channel!r}",
                allowed="a FullyReplicated channel has the same files on every host",
                fix="compare the channel's directory on the hosts, or declare it ShardedByS3Key",
            )
        # Hosts hold different files, the ranks of one host the same: the sum counts each host once.
        hosts = told[:: self._run.place.local_world_size]
        digest = hashlib.sha256(" ".join(extent.digest for extent in hosts).encode()).hexdigest()
        samples = sum(extent.samples for extent in hosts)
        return mine._replace(digest=digest, samples=samples, largest=max(extent.largest for extent in hosts))


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    except OSError as error:
        log.warning(f"{path} cannot be written: {error}")
