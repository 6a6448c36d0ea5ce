"""Real pip in an environment of its own, with wheels made here and an index on loopback; no network."""

import base64
import http.server
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.install.installs import Needs, command, find_needs, pip_environ
from tests.wheels import wheel

ROOT = Path(__file__).parents[3]


BACKEND = """
import zipfile
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "mine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as archive:
        archive.writestr("mine.py", "version = '1.0'")
        archive.writestr("mine-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n")
        archive.writestr("mine-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        archive.writestr("mine-1.0.dist-info/RECORD", "")
    open("left-by-the-build", "w").close()
    return name
"""
"""A build backend that needs nothing, so that no test depends on the setuptools of this machine."""


class Image:
    """A Python environment that plays the image's, with a torch of our making."""

    def __init__(self, home: Path) -> None:
        self.python = home / "bin" / "python"
        self.code = home / "code"
        self.house = home / "house"
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        self.pip("install", "-q", "--no-index", str(wheel(home / "made", "torch", "2.13.0+cpu")))
        self.reset()

    def pip(self, *words: str) -> None:
        subprocess.run([str(self.python), "-m", "pip", *words], check=True, capture_output=True, text=True)

    def reset(self) -> None:
        for directory in (self.code, self.house):
            subprocess.run(["rm", "-rf", str(directory)], check=True)
            directory.mkdir()

    def write(self, name: str, text: str) -> None:
        (self.code / name).parent.mkdir(parents=True, exist_ok=True)
        (self.code / name).write_text(textwrap.dedent(text))

    def install(
        self, *, house: bool = True, limit_s: float = 300.0, stop: bool = False, **told: Any
    ) -> tuple[str, str]:
        """Run `find_needs` and `install` there; return the error ("Kind: text") and everything printed."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.code.parent), **told.pop("environ", {})}
        call = f"""
            import json, sys
            from runtime.install.installs import find_needs, install, pip_environ
            from runtime.base.errors import Stopped
            told = json.loads(sys.argv[1])
            def pause(seconds):
                if told["stop"]:
                    raise Stopped(step=0, reason="SIGTERM")
            try:
                needs = find_needs({str(self.code)!r}, wheelhouse=told["house"])
                environ = pip_environ(told["environ"], "/nonexistent", told["index"])
                install(needs, environ, pause=pause, limit_s=told["limit_s"], keeps_lock=told["keeps_lock"])
            except BaseException as error:
                print(f"@@{{type(error).__name__}}: {{error}}")
        """
        facts = {
            "house": str(self.house) if house else "", "limit_s": limit_s, "stop": stop, "environ": environ,
            "index": told.pop("index", ""), "keeps_lock": told.pop("keeps_lock", True),
        }  # fmt: skip
        assert not told
        done = subprocess.run(
            [str(self.python), "-c", textwrap.dedent(call), json.dumps(facts)],
            env={"PYTHONPATH": str(ROOT), **environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        text = done.stdout + done.stderr
        return next((line[2:] for line in done.stdout.splitlines() if line.startswith("@@")), ""), text

    def has(self, module: str) -> str:
        code = f"import {module}; print({module}.version)"
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip()


@pytest.fixture(scope="module")
def _image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image") / "venv")


@pytest.fixture
def image(_image: Image) -> Image:
    _image.reset()
    return _image


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Serve wheels as a package index that wants a user and a password; returns its address with both."""
    root = tmp_path / "index"
    (root / "simple").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = "Basic " + base64.b64encode(b"aws:s3cr3t-t0ken-4711").decode()
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
                return
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def publish(name: str, version: str, *requires: str) -> str:
        wheel(root / "simple" / name, name, version, *requires)
        return f"http://aws:s3cr3t-t0ken-4711@127.0.0.1:{server.server_address[1]}/simple/"

    yield publish
    server.shutdown()
    thread.join()
    server.server_close()


NOBODY = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple/"}
"""An index that refuses: whoever asks it fails."""


def test_a_wheelhouse_serves_without_any_index(image: Image) -> None:
    wheel(image.house, "small", "1.0", "smaller>=1")
    wheel(image.house, "smaller", "1.5")
    image.write("requirements.txt", "small\n")
    error, text = image.install(environ=NOBODY)
    assert error == "", text
    assert (image.has("small"), image.has("smaller")) == ("1.0", "1.5")
    assert f"installed requirements.txt from {image.house} in " in text


def test_what_a_wheelhouse_lacks_is_named_and_no_index_is_asked(image: Image) -> None:
    image.write("requirements.txt", "absent==3\n")
    error, _ = image.install(environ=NOBODY)
    assert error.startswith("UserError: Installing requirements.txt from ")
    assert "absent==3" in error
    assert "no index was asked" in error
    assert "add what is missing to the wheelhouse" in error


def test_a_requirement_that_would_replace_torch_is_refused_before_pip_runs(image: Image) -> None:
    wheel(image.house, "torch", "2.5.1")
    wheel(image.house, "early", "1.0")
    image.write("requirements.txt", "early\ntorch==2.5.1\n")
    error, text = image.install()
    assert error.startswith(
        "UserError: requirements.txt line 2 asks for torch==2.5.1, but this image has torch 2.13.0+cpu."
    )
    assert "Processing" not in text
    assert (image.has("torch"), image.has("early")) == ("2.13.0+cpu", "")


def test_a_package_that_wants_another_torch_is_refused_before_anything_is_installed(image: Image) -> None:
    wheel(image.house, "torch", "2.5.1")
    wheel(image.house, "needy", "1.0", "torch==2.5.1")
    wheel(image.house, "early", "1.0")
    image.write("requirements.txt", "early\nneedy\n")
    error, _ = image.install()
    assert error.startswith("UserError: needy 1.0 asks for torch==2.5.1, but this image has torch 2.13.0+cpu.")
    assert "slipway_constraints=off" in error
    assert (image.has("torch"), image.has("early"), image.has("needy")) == ("2.13.0+cpu", "", "")


def test_wheels_beside_the_code_come_first_and_the_index_gives_the_rest(
    image: Image, index: Callable[..., str]
) -> None:
    wheel(image.code / "wheels", "private", "1.0")
    address = index("public", "2.0")
    image.write("requirements.txt", "private\npublic\n")
    error, text = image.install(house=False, index=address)
    assert error == "", text
    assert (image.has("private"), image.has("public")) == ("1.0", "2.0")
    assert "so the index is asked too" in text
    assert "s3cr3t" not in text


def test_a_failing_index_never_shows_its_password(image: Image, index: Callable[..., str]) -> None:
    address = index("public2", "2.0")
    image.write("requirements.txt", "nowhere-to-be-found\n")
    error, text = image.install(house=False, index=address)
    assert "nowhere-to-be-found" in error
    assert "s3cr3t" not in text


def test_code_that_is_a_package_is_built_elsewhere(image: Image) -> None:
    image.write(
        "pyproject.toml",
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "mine"\n',
    )
    image.write("backend.py", BACKEND)
    image.write("requirements.txt", "beside\n")
    wheel(image.house, "beside", "1.0")
    error, text = image.install()
    assert error == "", text
    assert (image.has("mine"), image.has("beside")) == ("1.0", "1.0")
    assert "installed requirements.txt and the code itself" in text
    assert sorted(path.name for path in image.code.iterdir()) == ["backend.py", "pyproject.toml", "requirements.txt"]


def test_a_setup_py_is_built_with_the_images_own_setuptools(image: Image, tmp_path: Path) -> None:
    image.write("setup.py", "from setuptools import setup; setup(name='mine2', version='3.0', py_modules=['mine2'])")
    image.write("mine2.py", "version = '3.0'")
    own = Path(str(importlib.metadata.distribution("setuptools").locate_file("")))
    facts = f"setuptools-{importlib.metadata.version('setuptools')}.dist-info"
    for name in ("setuptools", "_distutils_hack", facts, "pkg_resources"):
        if (own / name).is_dir():
            shutil.copytree(own / name, tmp_path / "newer" / name)
    error, text = image.install(house=False, environ={**NOBODY, "PYTHONPATH": f"{ROOT}:{tmp_path / 'newer'}"})
    assert error == "", text
    assert image.has("mine2") == "3.0"


def test_an_index_that_never_answers_ends_with_the_limit(image: Image) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        image.write("requirements.txt", "whatever\n")
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/simple/"
        error, _ = image.install(house=False, limit_s=3.0, index=address)
    assert error.startswith("PlatformError: Installing packages did not end in time")
    assert "slipway_install_s moves the limit" in error


def test_a_stop_request_ends_pip(image: Image) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        image.write("requirements.txt", "whatever\n")
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/simple/"
        error, _ = image.install(house=False, stop=True, index=address)
    assert error == "Stopped: stopped after step 0: SIGTERM"


def test_the_lock_can_be_given_up(image: Image) -> None:
    wheel(image.house, "torch", "2.5.1")
    image.write("requirements.txt", "torch==2.5.1\n")
    try:
        error, text = image.install(keeps_lock=False)
        assert error == "", text
        assert image.has("torch") == "2.5.1"
    finally:
        image.pip("install", "-q", "--no-index", "--force-reinstall", *map(str, (image.code.parent / "made").iterdir()))


@pytest.mark.parametrize(
    ("files", "package", "requirements"),
    [
        ({"train.py": ""}, False, ""),
        ({"train.py": "", "requirements.txt": ""}, False, "requirements.txt"),
        ({"setup.py": "", "requirements.txt": ""}, True, "requirements.txt"),
        ({"pyproject.toml": "[tool.ruff]\n"}, False, ""),
        ({"pyproject.toml": "[project]\nname = 'x'\n"}, False, ""),
        ({"pyproject.toml": "[build-system]\nrequires = []\n"}, True, ""),
    ],
)
def test_what_is_needed_shows_in_the_files(
    tmp_path: Path, files: dict[str, str], package: bool, requirements: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    needs = find_needs(str(tmp_path))
    assert needs.package is package
    assert needs.requirements == (str(tmp_path / requirements) if requirements else "")
    assert bool(needs) is (package or bool(requirements))


@pytest.mark.parametrize(
    ("place", "found"), [("wheels/a.whl", "wheels"), ("wheelhouse/a.whl", "wheelhouse"), ("a.whl", ".")]
)
def test_wheels_beside_the_code_are_found(tmp_path: Path, place: str, found: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("")
    assert Path(find_needs(str(tmp_path)).wheels) == tmp_path / found


def test_a_broken_pyproject_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[")
    with pytest.raises(UserError, match=r"pyproject\.toml cannot be read"):
        find_needs(str(tmp_path))


def test_an_empty_directory_needs_nothing() -> None:
    assert not find_needs("/nonexistent")
    assert not Needs("/x", wheelhouse="/y")


def test_the_cache_of_a_warm_pool_is_used(tmp_path: Path) -> None:
    assert pip_environ({}, str(tmp_path))["PIP_NO_CACHE_DIR"] == "1"
    (tmp_path / "sagemaker/warmpoolcache").mkdir(parents=True)
    assert pip_environ({}, str(tmp_path))["PIP_CACHE_DIR"] == f"{tmp_path}/sagemaker/warmpoolcache/pip"
    told = {"SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY": "/pool"}
    assert pip_environ(told, str(tmp_path))["PIP_CACHE_DIR"] == "/pool/pip"
    assert pip_environ({**told, "PIP_CACHE_DIR": "/own"}, str(tmp_path))["PIP_CACHE_DIR"] == "/own"


def test_the_address_of_an_index_is_in_the_environment_and_on_no_command_line() -> None:
    assert pip_environ({}, "/x", "https://aws:tok@host/simple/")["PIP_INDEX_URL"] == "https://aws:tok@host/simple/"


def test_without_a_right_to_write_packages_go_elsewhere_and_nothing_else_changes() -> None:
    needs = Needs("/code", requirements="/code/requirements.txt")
    here = command(needs, "/c", "/s", offline=False)
    assert command(needs, "/c", "/s", offline=False, prefix="/p") == (*here[:4], "--prefix", "/p", *here[4:])
