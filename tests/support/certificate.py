"""A self-signed certificate, for a throwaway server or for a proxy that ends TLS."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

__all__ = ["Certificate"]


class Certificate:
    """A key and a self-signed certificate for this host, in a folder that the server's user can read."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pqpool-tls-"))
        self.key, self.certificate = self._folder / "key.pem", self._folder / "certificate.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
                *("-keyout", str(self.key), "-out", str(self.certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self._folder.chmod(0o755)
        self.key.chmod(0o600)
        if os.geteuid() == 0:
            for name in ("nobody", "postgres"):  # whom ThrowawayServer takes, the last found first
                with contextlib.suppress(KeyError):
                    os.chown(self.key, pwd.getpwnam(name).pw_uid, -1)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
