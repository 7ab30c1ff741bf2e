"""A Debian of another age in a folder, made once with debootstrap. ``./dev`` runs there as on a new machine.

What runs there has that folder as its root, and mounts and processes of its own that end with it. The network
is the machine's.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MIRROR = "PQPOOL_DEBIAN_MIRROR"
# What else is needed, ./dev installs.
PACKAGES = "ca-certificates"
# What programs in there need to know about this machine's network.
NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
ENTER = """
set -e
mount --make-rprivate /
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/tmp"
exec chroot "$0" sh -c 'cd "$0" && exec "$@"' "$@"
"""


class NotHere(Exception):
    """Why this machine can have no such root; the message says it."""


class DebianRoot:
    def __init__(self, suite: str) -> None:
        """Looks whether it can be had here; nothing is made before `use`."""
        self._suite = suite
        self._folder = Path(tempfile.gettempdir()) / f"pqpool-debian-{suite}"
        self._root = self._folder / "root"
        if os.geteuid() != 0:
            raise NotHere("needs root's rights")
        if not shutil.which("debootstrap"):
            raise NotHere("debootstrap is not installed")
        own_mounts = ["unshare", "--mount", "--pid", "--fork", "mount", "--make-rprivate", "/"]
        if subprocess.run(own_mounts, capture_output=True).returncode != 0:
            raise NotHere("this machine does not let root mount anything")
        if not self._made() and not _mirror():
            raise NotHere(f"apt names no mirror of Debian's and {MIRROR} is not set")

    @contextmanager
    def use(self, checkout: Path, output: IO[bytes]) -> Iterator[Sequence[str]]:
        """The words to put in front of a command that is to run there, in a copy of the checkout.

        One user at a time; another one waits.
        """
        self._folder.mkdir(mode=0o755, exist_ok=True)
        found = self._folder.lstat()
        if self._folder.is_symlink() or found.st_uid != 0 or found.st_mode & 0o022:
            raise RuntimeError(f"{self._folder} is not root's alone. Remove it.")
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._made():
                self._make(output)
            for name in NETWORK_FILES:
                if Path(name).exists():
                    shutil.copy(name, f"{self._root}{name}")
            copy = self._copy(checkout)
            own = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
            yield [*own, "sh", "-c", ENTER, str(self._root), copy]

    def _made(self) -> bool:
        stamp = self._folder / "stamp"
        return stamp.is_file() and stamp.read_text() == PACKAGES

    def _make(self, output: IO[bytes]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", self._suite, str(self._root)]
        subprocess.run(
            [*command, _mirror()], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True
        )
        (self._folder / "stamp").write_text(PACKAGES)

    def _copy(self, checkout: Path) -> str:
        """Brings in what git knows or would add, beside what was built there before. Its path there."""
        place = f"/checkouts{checkout}"
        folder = Path(f"{self._root}{place}")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.name != "build":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        listing = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, stdout=subprocess.PIPE, check=True).stdout.split(b"\0")
        for name in filter(None, map(os.fsdecode, names)):
            if (checkout / name).exists():  # not where it was deleted and that is not committed yet
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, folder / name)
        return place


def _mirror() -> str:
    """Where this machine's own Debian packages come from."""
    if named := os.environ.get(MIRROR):
        return named
    if not shutil.which("apt-get"):
        return ""
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.partition("\n")[0]
