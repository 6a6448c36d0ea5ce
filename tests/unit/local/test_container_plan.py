"""What a host that is a container gets of the machine."""

import pytest

from runtime.base.errors import UserError
from runtime.local.container_plan import share_gpus


def test_gpus_are_dealt_out():
    assert share_gpus(["a", "b"], ["4", "5", "6", "7"]) == {"a": ("4", "5"), "b": ("6", "7")}
    with pytest.raises(UserError, match="2 hosts want a GPU each, this machine has 1"):
        share_gpus(["a", "b"], ["0"])
