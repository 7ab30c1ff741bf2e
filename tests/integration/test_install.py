"""``pip install .`` makes a package that needs nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a copy of the checkout was installed; the copy is gone."""
    checkout = tmp_path_factory.mktemp("copy") / "checkout"
    ignored = shutil.ignore_patterns("build", ".git", ".mypy_cache")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The build's requirements are there already, and an unoptimized build shows the same in half the time.
    here = ["--no-build-isolation", "--no-deps", "-Csetup-args=-Doptimization=0", f"--target={folder}", "."]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*pip, *here],
        cwd=checkout,
        env={**os.environ, "PATH": path, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    shutil.rmtree(checkout)
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installed_package_is_whole_and_imports_from_its_own_folder(
    installed: Path, database_url: str
) -> None:
    version = run(installed, "-c", "import pqpool; print(pqpool.__version__)")
    assert run(installed, "-m", "pqpool", "--version") == f"pqpool {version}"
    program = (
        "import asyncio, pqpool, sys\n"
        "async def main():\n"
        "    async with pqpool.ConnectionPoolManager(pqpool.PoolConfig(sys.argv[1])) as pool:\n"
        "        return await pool.fetchval('SELECT 42')\n"
        "print(pqpool.__file__, asyncio.run(main()))\n"
    )
    where, _, answer = run(installed, "-c", program, database_url).rpartition(" ")
    assert Path(where).is_relative_to(installed) and answer == "42"
    (library,) = installed.rglob("libpqpool.so*")
    maps = run(installed, "-c", "import pqpool; print(open('/proc/self/maps').read())")
    assert str(library) in maps


def test_installed_package_holds_its_types_and_no_left_overs(installed: Path) -> None:
    # pip compiles what it installs, so byte code is not looked at.
    found = {
        path.relative_to(installed / "pqpool").as_posix()
        for path in (installed / "pqpool").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    source = ROOT / "python" / "pqpool"
    expected = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"py.typed", "_pqpool.pyi"} <= found
    assert found - {"libpqpool.so.0"} == expected
