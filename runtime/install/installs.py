"""What the user's code needs besides the image: installed once per host, before any rank, and timed.

pip does the work, under a constraints file of the image's packages, so that no requirement can replace the torch that
the image was built and tested with. Addresses with credentials go to pip by its environment, never by its command line.
"""

from __future__ import annotations

import os
import sys

from runtime.base.errors import PlatformError, UserError
from runtime.base.frozen import frozen
from runtime.base.log import Log
from runtime.base.redact import redact
from runtime.install.requirements import check_lock, conflict_told, read_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from runtime.base.env import Environ

_log = Log("install")

KEPT_LINES = 200
"""Lines of pip that are kept for the error; a conflict of many packages takes about a hundred."""
WARM_POOL_CACHE = "sagemaker/warmpoolcache"
"""Under the contract's root; survives from one job of a warm pool to the next."""
SETUPTOOLS_WITH_WHEELS = (70, 1)
"""First version that needs no other package to make a wheel. Source: its change log."""
POLL_S = 0.5
"""How soon a stop request is noticed while pip works."""


@frozen
class Needs:
    """What is to be installed."""

    code: str
    """The code directory."""
    package: bool = False
    """Whether the code directory itself is a package (setup.py, or pyproject.toml with a build system)."""
    requirements: str = ""
    """Path of the requirements file; empty when there is none."""
    wheelhouse: str = ""
    """Directory of wheels that holds everything: no index is asked. Empty when there is none."""
    wheels: str = ""
    """Directory of wheels that came with the code: taken first, the index asked for what they lack."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self.package or bool(self.requirements)


def find_needs(code: str, *, requirements: str = "", wheelhouse: str = "", package: bool | None = None) -> Needs:
    """Look into the code directory.

    Args:
        code: the code directory.
        requirements: file that the job names; default: ``requirements.txt`` if it is there.
        wheelhouse: directory of the channel ``wheelhouse``; empty without one.
        package: whether the code is a package; default: by its files.
    """
    names = set(os.listdir(code)) if os.path.isdir(code) else set[str]()
    if package is None:
        package = "setup.py" in names or ("pyproject.toml" in names and _has_build_system(f"{code}/pyproject.toml"))
    if not requirements and "requirements.txt" in names:
        requirements = f"{code}/requirements.txt"
    folders = [f"{code}/{name}" for name in ("wheelhouse", "wheels") if _has_wheels(f"{code}/{name}")]
    wheels = folders[0] if folders else code if any(name.endswith(".whl") for name in names) else ""
    return Needs(code, package, requirements, wheelhouse, wheels)


def _has_wheels(directory: str) -> bool:
    return os.path.isdir(directory) and any(name.endswith(".whl") for name in os.listdir(directory))


def _has_build_system(path: str) -> bool:
    """Tell a package from a file that only configures linters: who can be built says so."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return "build-system" in tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="mend it, or leave it out of the code") from error


def pip_environ(environ: Environ, base: str, index_url: str = "") -> dict[str, str]:
    """Return pip's environment: the user's, with a cache where one survives and an index that nobody can read.

    Args:
        environ: the launcher's.
        base: root of the contract's tree.
        index_url: of a CodeArtifact repository; empty without one.
    """
    values = dict(environ)
    values |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    values["PIP_PROGRESS_BAR"] = "off"
    cache = environ.get("SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY", "")
    if not cache and os.path.isdir(f"{base}/{WARM_POOL_CACHE}"):
        cache = f"{base}/{WARM_POOL_CACHE}"
    if not environ.get("PIP_CACHE_DIR") and not environ.get("PIP_NO_CACHE_DIR"):
        # Elsewhere a cache dies with the container, and only takes its disk.
        values |= {"PIP_CACHE_DIR": f"{cache}/pip"} if cache else {"PIP_NO_CACHE_DIR": "1"}
    if index_url:
        values["PIP_INDEX_URL"] = index_url
    return values


def command(needs: Needs, constraints: str, source: str, *, offline: bool, prefix: str = "") -> tuple[str, ...]:
    """Return pip's command line.

    Args:
        needs: what to install.
        constraints: file of the image's packages; empty: none.
        source: copy of the code directory from which a package is built.
        offline: ask no index.
        prefix: where to install; empty: where the image's packages are.
    """
    words = [sys.executable, "-m", "pip", "install"]
    words += ["--prefix", prefix] if prefix else []
    words += ["-c", constraints] if constraints else []
    for folder in (needs.wheelhouse, needs.wheels):
        words += ["--find-links", folder] if folder else []
    if offline:
        words.append("--no-index")
    if needs.package and (offline or _builds_with_our_setuptools(needs.code)):
        # The tools that build a package are the image's own: an isolated build would want to fetch them.
        words.append("--no-build-isolation")
    words += ["-r", needs.requirements] if needs.requirements else []
    words += [source] if needs.package else []
    return tuple(words)


def _builds_with_our_setuptools(code: str) -> bool:
    """Whether a ``setup.py`` names no tools of its own, and ours can make a wheel without the package ``wheel``."""
    from importlib.metadata import PackageNotFoundError, version

    if os.path.isfile(f"{code}/pyproject.toml"):
        return False
    try:
        major, minor = (int(part) for part in version("setuptools").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= SETUPTOOLS_WITH_WHEELS


def install(
    needs: Needs,
    environ: Mapping[str, str],
    *,
    pause: Callable[[float], object],
    limit_s: float,
    keeps_lock: bool = True,
    lock: Mapping[str, str] | None = None,
) -> str:
    """Install what the code needs.

    Args:
        needs: what.
        environ: pip's; see `pip_environ`.
        pause: waits the given seconds, 0 here; may raise to give up, as after a stop request.
        limit_s: seconds after which pip counts as stuck.
        keeps_lock: whether the image's packages are kept as they are.
        lock: the image's packages; default: `read_lock`.

    Returns:
        Directory that scripts need on their path besides the image's packages; empty in most cases. An image whose
        packages cannot be written (another user, a read-only root) gets one under the temporary directory.

    Raises:
        UserError: a requirement would replace a package of the image, or cannot be had.
        PlatformError: pip is missing, or did not end in time.
    """
    import importlib.util
    import shutil
    import tempfile
    import time

    began = time.monotonic()
    deadline = began + limit_s
    pip = importlib.util.find_spec("pip")
    if pip is None or pip.origin is None:
        raise PlatformError(
            f"The code needs packages ({_told(needs)}), and this image has no pip", fix="build the image with pip"
        )
    locked = dict(read_lock() if lock is None else lock) if keeps_lock else {}
    if needs.requirements:
        check_lock(needs.requirements, locked)
    aside = tempfile.mkdtemp(prefix="slipway-install-")
    prefix = ""
    if not os.access(os.path.dirname(os.path.dirname(pip.origin)), os.W_OK):
        prefix = tempfile.mkdtemp(prefix="slipway-packages-")
        _log.info(f"packages go to {prefix}, because uid {os.getuid()} cannot write where the image has its own")
    turn = _wait_for_turn(tempfile.gettempdir(), pause, deadline)
    try:
        constraints = f"{aside}/constraints.txt" if locked else ""
        if constraints:
            with open(constraints, "w", encoding="utf-8") as file:
                file.writelines(f"{name}=={version}\n" for name, version in locked.items())
        source = f"{aside}/source"
        if needs.package:
            # A build leaves files beside the source, and the code directory may be the user's own tree.
            shutil.copytree(needs.code, source, symlinks=True, ignore=shutil.ignore_patterns(".git", "*.whl"))
        offline = bool(needs.wheelhouse or needs.wheels)
        code, output = _run(
            command(needs, constraints, source, offline=offline, prefix=prefix), needs.code, environ, pause, deadline
        )
        if code and offline and not needs.wheelhouse:
            _log.info("the wheels that came with the code do not hold everything, so the index is asked too")
            online = command(needs, constraints, source, offline=False, prefix=prefix)
            code, output = _run(online, needs.code, environ, pause, deadline)
        if code:
            raise conflict_told(output, locked) or _failure(needs, output, code)
    finally:
        os.close(turn)
        shutil.rmtree(aside, ignore_errors=True)
    _log.info(f"installed {_told(needs)} in {time.monotonic() - began:.1f} s")
    return f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages" if prefix else ""


def _wait_for_turn(directory: str, pause: Callable[[float], object], deadline: float) -> int:
    """Return an open, locked file: the local platform plays several hosts with one Python."""
    import fcntl
    import time

    turn = os.open(
        f"{directory}/slipway-install-{os.getuid()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    while True:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return turn
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(turn)
                raise PlatformError("Another host of this machine did not end its installation in time") from None
            pause(POLL_S)


def _told(needs: Needs) -> str:
    parts = [os.path.basename(needs.requirements)] if needs.requirements else []
    parts += ["the code itself"] if needs.package else []
    return " and ".join(parts) + (f" from {needs.wheelhouse}" if needs.wheelhouse else "")


def _run(
    words: Sequence[str], cwd: str, environ: Mapping[str, str], pause: Callable[[float], object], deadline: float
) -> tuple[int, list[str]]:
    """Run pip, show its lines without secrets, and keep the last of them."""
    import signal
    import subprocess
    import time
    from contextlib import suppress
    from threading import Thread

    output: list[str] = []
    # In a session of its own: when we give up, the compilers that it started must go too.
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    reader = Thread(target=_relay, args=(process.stdout or (), output), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"Installing packages did not end in time; the last line was {output[-1] if output else ''!r}",
                    fix="bring the wheels with the job (channel 'wheelhouse'); slipway_install_s moves the limit",
                )
            pause(0.0)
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # Whoever still holds the pipe is no reason to wait for.
        reader.join(POLL_S)
    return process.returncode, output


def _relay(lines: Iterable[str], output: list[str]) -> None:
    for line in lines:
        shown = redact(line.rstrip("\n"))
        output.append(shown)
        del output[:-KEPT_LINES]
        sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()


def _failure(needs: Needs, output: Sequence[str], code: int) -> UserError:
    told = [line.strip().removeprefix("ERROR: ") for line in output if "ERROR" in line or "error:" in line]
    where = "from the wheelhouse, and no index was asked" if needs.wheelhouse else "from the index and the wheels"
    return UserError(
        f"Installing {_told(needs)} failed: {' | '.join(told[:3]) or f'pip ended with {code}'}",
        allowed=f"It installs {where}",
        fix="see pip's lines in the log"
        + ("; add what is missing to the wheelhouse" if needs.wheelhouse else "; without a network use a wheelhouse"),
    )
