"""A script written against the documents runs unchanged through ``./dev scenario``."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).with_name("scenarios")


def scenario(script: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "dev"), "scenario", str(script)], capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def documents() -> subprocess.CompletedProcess[str]:
    return scenario(SCRIPTS / "validate_documents.py")


def test_script_of_the_documents_passes(documents: subprocess.CompletedProcess[str]) -> None:
    assert documents.returncode == 0, f"{documents.stdout}\n{documents.stderr}"
    assert "all expectations held" in documents.stdout


def test_pool_recovers_within_three_seconds_of_the_servers_return(
    documents: subprocess.CompletedProcess[str],
) -> None:
    found = re.search(r"^recovery time: ([\d.]+) s$", documents.stdout, re.MULTILINE)
    assert found, f"the script printed no recovery time:\n{documents.stdout}\n{documents.stderr}"
    assert float(found[1]) <= 3.0


def test_failed_expectation_is_the_scripts_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import sys\n"
        "from src.connection_pool import ConnectionPoolManager\n"
        'URL = "postgresql+asyncpg://appuser:apppass@localhost:5432/appdb"\n'
        "print('before the end')\n"
        "sys.exit(7)\n"
    )
    done = scenario(script)
    assert done.returncode == 7, f"{done.stdout}\n{done.stderr}"
    assert done.stdout == "before the end\n"


def test_the_aliases_come_before_a_src_package_of_the_scripts_own(tmp_path: Path) -> None:
    own = tmp_path / "src"
    (own / "connection_pool").mkdir(parents=True)
    (own / "__init__.py").write_text("raise RuntimeError('the wrong src')")
    (own / "connection_pool" / "__init__.py").write_text("raise RuntimeError('the wrong connection_pool')")
    (own / "models.py").write_text("ANSWER = 42")
    script = tmp_path / "scripts" / "check.py"
    script.parent.mkdir()
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, str(Path(__file__).parents[1]))\n"
        "from src.connection_pool.manager import ConnectionPoolManager\n"
        "from src.models import ANSWER\n"
        "import src.connection_pool, pqpool\n"
        "assert src.connection_pool.ConnectionPoolManager is pqpool.ConnectionPoolManager\n"
        "print(ANSWER)\n"
    )
    done = scenario(script)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
