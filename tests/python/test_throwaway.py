"""Which PostgreSQL the throwaway server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqpool.throwaway import ThrowawayServer, ThrowawayServerError, find_binaries


def test_the_named_folder_of_programs_is_taken_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.symlink_to(find_binaries())
    monkeypatch.setenv("PQPOOL_PG_BINDIR", str(programs))
    assert find_binaries() == programs
    programs.unlink()
    with (
        pytest.raises(ThrowawayServerError, match=f"PQPOOL_PG_BINDIR is '{programs}'.*Suggestion"),
        ThrowawayServer(),
    ):
        pass
