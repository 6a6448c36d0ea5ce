"""Packets of one container that are lost or come late: rules in its network name space, seen from the engine's machine.

The kernel's own netem delays packets where it is built in; elsewhere, and for losses, a queue of netfilter does
(`runtime.testing.faults.packets`): it draws by a seed, and unlike a rule that drops it tells the sender nothing. All of
it needs root on the machine of the engine.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

from runtime.base.errors import UserError, one_line
from runtime.testing.faults.packets import PacketQueue
from runtime.testing.faults.plan import Fault

PATH = f"{os.defpath}:/usr/sbin:/sbin"
LATE, LOST = 77, 78
"""Numbers of our queues: each network name space has its own ones."""


def can_reach_in() -> str:
    """Tell why we cannot enter a container's network name space; empty when we can."""
    if os.geteuid() != 0:
        return "it needs root on the machine of the engine"
    missing = [name for name in ("nsenter", "iptables") if shutil.which(name, path=PATH) is None]
    return f"{' and '.join(missing)} is not installed" if missing else ""


class ContainerNetwork:
    """The network of one container."""

    def __init__(self, pid: int, name: str) -> None:
        """Nothing is changed yet.

        Args:
            pid: of its first process, as this machine counts.
            name: for error texts.
        """
        self._pid = pid
        self._name = name

    def disturb(self, fault: Fault) -> Callable[[], None]:
        """Begin ``drop``, ``loss`` or ``latency``; return what takes it back."""
        if fault.verb == "drop":
            return self.drop()
        if fault.verb == "loss":
            return self.lose(fault.share, fault.seed)
        return self.delay(fault.delay_s, fault.jitter_s, fault.seed)

    def drop(self, *, incoming: bool = True, outgoing: bool = True, peer: str = "") -> Callable[[], None]:
        """Lose packets in silence, as a broken switch does.

        Args:
            incoming: lose what comes to it.
            outgoing: lose what it sends.
            peer: an address, to lose only what goes to or comes from there.

        Returns:
            What takes it back.
        """
        rules: list[list[str]] = []
        for chain, wanted, ours, theirs in (("INPUT", incoming, "-i", "-s"), ("OUTPUT", outgoing, "-o", "-d")):
            if wanted:
                only = [theirs, peer] if peer else []
                rules.append([chain, "!", ours, "lo", *only, "-j", "DROP"])
        return self._rules(rules)

    def lose(self, share: float, seed: int = 0) -> Callable[[], None]:
        """Lose a share of the packets that it sends.

        Args:
            share: in 0..1.
            seed: which packets; the same packets in the same order meet the same fate.

        Returns:
            What takes it back.
        """
        # A table of its own: a packet that one queue lets go is not seen by the rest of the table.
        return self._queue(["-t", "mangle"], "POSTROUTING", LOST, PacketQueue(self._pid, LOST, share=share, seed=seed))

    def delay(self, delay_s: float, jitter_s: float = 0.0, seed: int = 0) -> Callable[[], None]:
        """Let what it sends come later; return what takes it back.

        Args:
            delay_s: seconds.
            jitter_s: seconds around `delay_s`, equally often above and below.
            seed: of the jitter, where the kernel has no netem.
        """
        netem = ["root", "netem", "delay", f"{delay_s * 1000:g}ms", f"{jitter_s * 1000:g}ms"]
        try:
            for interface in self._links():
                self._run("tc", "qdisc", "replace", "dev", interface, *netem)
        except UserError:
            queue = PacketQueue(self._pid, LATE, delay_s=delay_s, jitter_s=jitter_s, seed=seed)
            return self._queue([], "OUTPUT", LATE, queue)

        def undo() -> None:
            for interface in self._links():
                self._run("tc", "qdisc", "del", "dev", interface, "root")

        return undo

    def heal(self) -> None:
        """Take back every `drop`."""
        self._run("iptables", "--wait", "-F")

    def _queue(self, table: list[str], chain: str, number: int, queue: PacketQueue) -> Callable[[], None]:
        # --queue-bypass: packets pass when nobody listens, so that no network hangs after our end.
        words = [chain, "!", "-o", "lo", "-j", "NFQUEUE", "--queue-num", str(number), "--queue-bypass"]
        try:
            remove = self._rules([words], table)
        except UserError:
            queue.close()
            raise

        def undo() -> None:
            try:
                remove()
            finally:
                queue.close()

        return undo

    def _links(self) -> list[str]:
        listed = self._run("ip", "-oneline", "link", "show").splitlines()
        names = [line.split(":")[1].strip().partition("@")[0] for line in listed]
        return [name for name in names if name != "lo"]

    def _rules(self, rules: Sequence[Sequence[str]], table: Sequence[str] = ()) -> Callable[[], None]:
        for rule in rules:
            self._run("iptables", "--wait", *table, "-A", *rule)

        def undo() -> None:
            if os.path.exists(f"/proc/{self._pid}"):  # else the name space is gone, and the rules with it
                for rule in rules:
                    self._run("iptables", "--wait", *table, "-D", *rule)

        return undo

    def _run(self, *words: str) -> str:
        command = ["nsenter", "--target", str(self._pid), "--net", *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": PATH})
        except OSError as error:
            raise UserError(f"The network of {self._name} cannot be changed: {error}", fix=FIX) from error
        if done.returncode != 0:
            raise UserError(
                one_line(f"The network of {self._name} cannot be changed: {words[0]}: {done.stderr.strip()}"), fix=FIX
            )
        return done.stdout


FIX = "run as root on the machine of the engine, with nsenter, ip and iptables installed"
