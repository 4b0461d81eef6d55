"""Wheel, source archive and repository install into a fresh environment, and every command works from another folder.

The environment has no fedlora but the one that is tried; what fedlora needs is taken from the one that runs the tests, so that
no gigabytes are fetched.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def command(*words, cwd, env=None):
    """Run something outside the checkout; returns what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | (env or {})
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and a source archive, made as the README says or as a release would."""
    pytest.importorskip("build", reason="pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture
def fresh(tmp_path):
    """A new environment without fedlora, and the folder of its programs."""
    venv.create(tmp_path / "env", with_pip=True)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Paths named in a .pth file are added as they are: a checkout that is installed there for editing is not seen.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    return tmp_path / "env" / "bin"


def installed(programs, what, cwd):
    """Install, and where the package then is."""
    command(
        programs / "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed", what, cwd=cwd
    )
    where = Path(command(programs / "python", "-c", "import fedlora; print(fedlora.__file__)", cwd=cwd).strip())
    assert programs.parent in where.parents
    return where.parent


def test_the_wheel_has_what_it_needs_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "fedlora/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"fedlora"}


@pytest.mark.parametrize("kind", ["tar.gz", "git"])
def test_archive_and_repository_install(kind, built, fresh, tmp_path):
    if kind == "git" and not (shutil.which("git") and (ROOT / ".git").exists()):
        pytest.skip("this is no clone")
    what = f"git+file://{ROOT}" if kind == "git" else next(built.glob("*.tar.gz"))
    assert (installed(fresh, what, tmp_path) / "methods" / "fedit.py").is_file()
    assert "compare" in command(fresh / "fedlora", "--help", cwd=tmp_path)


def test_every_command_works_from_another_folder(built, fresh, small, tmp_path):
    from typer.main import get_command

    from fedlora.cli import app

    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.copy(small / "data" / "train.jsonl", home / "tickets.jsonl")
    shutil.copytree(small / "base", home / "base")
    (wheel,) = built.glob("*.whl")
    installed(fresh, wheel, home)
    tried = set()

    def fedlora(name, *words, says=""):
        tried.add(name)
        told = command(fresh / "fedlora", name, *words, cwd=home, env={"XDG_CACHE_HOME": str(home / "cache")})
        assert says in told
        return told

    sets = [word for key in ("model.base=base", "run.rounds=1", "split.clients=3") for word in ("--set", key)]
    fedlora("init", "tickets.jsonl", "--owner", "ward", "--out", "fedlora.toml")
    fedlora("run", "fedlora.toml", *sets, "--set", "method.name=fedit", "--out", "runs/mine")
    fedlora("compare", "fedlora.toml", *sets, "--methods", "fedit,local", "--out", "runs/two")
    fedlora("report", "runs/two")
    fedlora("predict", "runs/mine", "please open my account")
    fedlora("export", "runs/mine", "my-adapter")
    fedlora("methods", says="lora-a2")
    fedlora("check", "fedit", "--examples", "3", says="held")
    fedlora("site", "--help", says="site")
    if "deploy-app" in get_command(app).commands:
        fedlora("deploy-app", "app")
        assert (home / "app" / "pyproject.toml").is_file()
    assert (home / "runs" / "mine" / "report.html").is_file()
    assert (home / "my-adapter" / "adapter_config.json").is_file()
    assert set(get_command(app).commands) == tried, "a command that nobody tries from a wheel"
