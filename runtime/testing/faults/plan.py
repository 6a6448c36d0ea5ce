"""Faults in words: what happens to whom, and when. Pure.

    kill:algo-2@step:30          the machine of a host is gone            kill:rank:3@20s   one rank is killed
    freeze:algo-1@20s+10s        nothing of it runs for 10 s              disconnect:algo-2@step:5+10s
    drop:algo-2@10s+5s           its packets are lost, in silence         loss:algo-1=5%
    latency:algo-2=200ms~50ms    what it sends comes later, jitter 50 ms
    full-disk:/opt/ml/checkpoints=64m@step:5      slow-disk:/opt/ml/output=2m       random=SEED/COUNT@60s

``@`` says when: after a step that any rank has finished, or after a time since the start of the hosts; without it the
fault is there from the start of every attempt. ``+`` says for how long; without it, until the end of the hosts.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.base.errors import UserError, did_you_mean

HOST_VERBS = ("kill", "freeze", "disconnect", "drop", "latency", "loss")
DISK_VERBS = ("full-disk", "slow-disk")
VERBS = (*HOST_VERBS, *DISK_VERBS)
RANK_VERBS = ("kill", "freeze")
"""What can happen to a single rank."""
DEFAULT_DISK = 256 << 20
"""Bytes of a disk that is full later; it costs no memory, and only what is written to it on this machine's disk."""
SMALLEST_DISK = 4 << 20
"""Below this there is no room for a file system."""
RANDOM_SPAN_S = 60.0
LONGEST_RANDOM_S = 10.0
"""How long a random fault lasts at most, where it ends at all."""
FORM = "VERB:HOST[=VALUE][@step:N|@Ns][+Ns]"

_FAULT = re.compile(
    r"(?P<verb>[a-z-]+):(?P<target>[^=@+]+)(?:=(?P<value>[^@+]+))?(?:@(?P<when>[^+]+))?(?:\+(?P<lasting>.+))?"
)
_RANDOM = re.compile(r"random=(\d+)/(\d+)(?:@(.+))?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Fault:
    """One thing that shall happen."""

    verb: str
    """One of `VERBS`."""
    host: str = ""
    """Whose; empty: all hosts, or the one that has `rank`."""
    rank: int | None = None
    """Global rank; None: the whole host."""
    path: str = ""
    """Directory in the container, of a disk."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Around `delay_s`, equally often above and below."""
    share: float = 0.0
    """Of the packets that are lost, in 0..1."""
    size: int = 0
    """Bytes of a disk that gets full."""
    rate: int = 0
    """Bytes per second of a slow disk."""
    step: int | None = None
    """Comes as soon as any rank has finished this step in an attempt."""
    after_s: float | None = None
    """Comes this long after the start of the hosts; both None: at the start of every attempt."""
    lasting_s: float | None = None
    """None: until the end of the hosts."""
    seed: int = 0
    """Of the jitter."""
    text: str = ""
    """As the user wrote it, or would write it to get the same again."""

    def due(self, step: int, elapsed_s: float) -> bool:
        """Tell whether it comes now; `step` is the last one that any rank has finished in this attempt."""
        if self.step is not None:
            return step >= self.step
        return self.after_s is None or elapsed_s >= self.after_s

    @property
    def once(self) -> bool:
        """Whether it happens once in a job, and not in every attempt."""
        return self.step is not None or self.after_s is not None


def parse_faults(texts: Sequence[str], hosts: Sequence[str], verbs: Sequence[str] = VERBS) -> tuple[Fault, ...]:
    """Read what ``--fault`` was given.

    Args:
        texts: each one fault, or ``random=SEED/COUNT[@SPAN]``, which stands for COUNT faults.
        hosts: names of all hosts.
        verbs: what can be played here.

    >>> [fault.step for fault in parse_faults(["kill:algo-2@step:30"], ["algo-1", "algo-2"])]
    [30]

    Raises:
        UserError: a text has no meaning, names no host, or asks for what cannot be played here.
    """
    found: list[Fault] = []
    for text in texts:
        many = _RANDOM.fullmatch(text)
        if many:
            found += _random(int(many[1]), int(many[2]), many[3] or f"{RANDOM_SPAN_S:g}s", hosts, verbs, text)
        else:
            found.append(_parse(text, hosts, verbs))
    return tuple(found)


def _parse(text: str, hosts: Sequence[str], verbs: Sequence[str]) -> Fault:
    match = _FAULT.fullmatch(text)
    if not match:
        raise UserError(f"Fault {text!r}", allowed=f"it is {FORM}, or random=SEED/COUNT", fix=_EXAMPLE)
    verb = match["verb"]
    if verb not in VERBS:
        raise UserError(f"Fault {text!r}: unknown verb {verb!r}", allowed=did_you_mean(verb, VERBS))
    if verb not in verbs:
        raise UserError(
            f"Fault {text!r}: {verb} cannot be played here",
            allowed=f"here are {', '.join(verbs)}",
            fix="use --engine docker",
        )
    fault = Fault(verb, text=text)
    fault = _aimed(fault, match["target"], hosts)
    fault = _valued(fault, match["value"])
    fault = _timed(fault, match["when"])
    if match["lasting"] is not None:
        if verb == "kill":
            raise UserError(f"Fault {text!r}: what is killed stays dead", fix="leave the + out")
        fault = replace(fault, lasting_s=_seconds(match["lasting"], text))
    return fault


_EXAMPLE = "write for example kill:algo-2@step:30 or freeze:algo-1@20s+10s"


def _aimed(fault: Fault, target: str, hosts: Sequence[str]) -> Fault:
    if fault.verb in DISK_VERBS:
        host, found, path = target.partition(":")
        if not found:
            host, path = "", target
        if not path.startswith("/"):
            raise UserError(f"Fault {fault.text!r}: {path!r} is no absolute path", fix=f"{fault.verb}:/opt/ml/output")
        fault = replace(fault, host=host, path=path.rstrip("/"))
    elif target.startswith("rank:"):
        number = target.removeprefix("rank:")
        if not number.isdigit():
            raise UserError(f"Fault {fault.text!r}: {number!r} is no rank", fix="write for example kill:rank:3")
        if fault.verb not in RANK_VERBS:
            raise UserError(f"Fault {fault.text!r}: a rank has no network of its own", fix="name its host")
        fault = replace(fault, rank=int(number))
    else:
        fault = replace(fault, host=target)
    if fault.host and fault.host not in hosts:
        raise UserError(f"Fault {fault.text!r}: no host {fault.host!r}", allowed=did_you_mean(fault.host, hosts))
    return fault


def _valued(fault: Fault, value: str | None) -> Fault:
    wants = {"latency": "200ms or 200ms~50ms", "loss": "5%", "slow-disk": "bytes per second, such as 2m"}
    if value is None:
        if fault.verb in wants:
            raise UserError(f"Fault {fault.text!r} lacks its value", allowed=f"after = comes {wants[fault.verb]}")
        return replace(fault, size=DEFAULT_DISK) if fault.verb == "full-disk" else fault
    if fault.verb == "latency":
        delay, _, jitter = value.partition("~")
        delay_s, jitter_s = _seconds(delay, fault.text), _seconds(jitter, fault.text) if jitter else 0.0
        if jitter_s > delay_s:
            raise UserError(f"Fault {fault.text!r}: the jitter is above the delay", allowed=wants["latency"])
        return replace(fault, delay_s=delay_s, jitter_s=jitter_s)
    if fault.verb == "loss":
        number = value.removesuffix("%")
        if not value.endswith("%") or not re.fullmatch(r"\d+(\.\d+)?", number) or not 0 < float(number) <= 100:
            raise UserError(f"Fault {fault.text!r}: {value!r}", allowed="it is a percentage up to 100%, such as 5%")
        return replace(fault, share=float(number) / 100)
    if fault.verb in DISK_VERBS:
        size = _bytes(value, fault.text)
        if fault.verb == "slow-disk":
            return replace(fault, rate=size)
        if size < SMALLEST_DISK:
            raise UserError(f"Fault {fault.text!r}: {value} is too small for a file system", allowed="4m and more")
        return replace(fault, size=size)
    raise UserError(f"Fault {fault.text!r}: {fault.verb} takes no value", fix="leave the = out")


def _timed(fault: Fault, when: str | None) -> Fault:
    if when is None:
        if fault.verb in ("kill", "freeze", "disconnect", "drop"):
            raise UserError(f"Fault {fault.text!r} does not say when", fix="add @step:N or @Ns")
        return fault
    step = re.fullmatch(r"step:(\d+)", when)
    if step:
        if int(step[1]) < 1:
            raise UserError(f"Fault {fault.text!r}: step {step[1]}", allowed="steps count from 1")
        return replace(fault, step=int(step[1]))
    return replace(fault, after_s=_seconds(when, fault.text))


def _seconds(text: str, fault: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if not match:
        raise UserError(f"Fault {fault!r}: {text!r} is no time", allowed="such as 200ms, 20s or 2m")
    return float(match[1]) * _UNITS[match[2]]


def _bytes(text: str, fault: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.lower())
    size = int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " ")) if match else 0
    if size < 1:
        raise UserError(f"Fault {fault!r}: {text!r} is no size", allowed="such as 512k, 64m or 2g")
    return size


def _random(seed: int, count: int, span: str, hosts: Sequence[str], verbs: Sequence[str], text: str) -> list[Fault]:
    """Draw faults; the same seed, hosts and verbs give the same ones."""
    # A plan that can be repeated is what is wanted, not a secret.
    draw = random.Random(seed)  # noqa: S311
    choices = [verb for verb in HOST_VERBS if verb in verbs]
    steps = re.fullmatch(r"step:(\d+)", span)
    span_s = 0.0 if steps else _seconds(span, text)
    if steps and int(steps[1]) < 1:
        raise UserError(f"Fault {text!r}: step {steps[1]}", allowed="steps count from 1")
    made: list[Fault] = []
    for _ in range(count):
        verb, host = draw.choice(choices), draw.choice(list(hosts))
        when = f"step:{draw.randint(1, int(steps[1]))}" if steps else f"{draw.uniform(0.0, span_s):.2f}s"
        value = {
            "latency": f"={draw.randint(20, 500)}ms~{draw.randint(0, 20)}ms",
            "loss": f"={draw.randint(1, 20)}%",
        }.get(verb, "")
        lasting = f"+{draw.uniform(0.5, LONGEST_RANDOM_S):.2f}s"
        one = f"{verb}:{host}{value}@{when}{'' if verb == 'kill' else lasting}"
        made.append(replace(_parse(one, hosts, verbs), seed=draw.randrange(1 << 30)))
    return made
