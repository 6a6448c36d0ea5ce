"""Tensors to a rank's device, while the device computes."""

import torch


class Copies:
    """Copies to one device.

    On a GPU: into page-locked memory, and from there on a stream of its own. The copy runs beside the kernels of the
    step before, which are still queued when the next batch is asked for; the step's stream waits for it, nobody else.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare; nothing is allocated before the first copy."""
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        """Copy one tensor; the same tensor when the device is the CPU."""
        if self._device.type != "cuda":
            return part.to(self._device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = part.pin_memory().to(self._device, non_blocking=True)
        users = torch.cuda.current_stream(self._device)
        users.wait_stream(self._stream)
        moved.record_stream(users)  # or its memory would be given away while the step still reads it
        return moved
