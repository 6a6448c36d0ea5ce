"""What is wrong with a file, and where."""

from runtime.base.errors import UserError

REPLACE = "replace the file from its source, or leave it out with on_bad='skip'"


class FormatError(UserError):
    """A file is not what its format demands.

    Attributes:
        file: name of the file or stream.
        offset: byte at which the fault was found, counted from the beginning of the (decompressed) input.
    """

    file: str = ""
    offset: int = 0


def malformed(file: str, offset: int, what: str, *, fix: str = REPLACE) -> FormatError:
    """Make the error; `what` completes ``FILE, byte N: ...``."""
    error = FormatError(f"{file}, byte {offset}: {what}", fix=fix)
    error.file, error.offset = file, offset
    return error
