"""Faults on demand: what they are called, when they come, and how they are done to containers and processes."""

from runtime.testing.faults.disk import Disk
from runtime.testing.faults.network import ContainerNetwork
from runtime.testing.faults.plan import Fault, parse_faults
from runtime.testing.faults.play import FaultPlayer, Played, Victim

__all__ = ["ContainerNetwork", "Disk", "Fault", "FaultPlayer", "Played", "Victim", "parse_faults"]
