"""`src` as scripts expect it: `src.connection_pool` is `pqpool`, before any other that lies on the path.

Whatever else a folder `src` on the path holds is found as usual, so that a script may have one of its own.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

_OWN = Path(__file__).parent


class _Path(list[str]):
    """Looked at for each import, since scripts put their own folders on the path."""

    def __iter__(self) -> Iterator[str]:
        yield str(_OWN)
        for entry in sys.path:
            folder = Path(entry, "src")
            if folder != _OWN and folder.is_dir():
                yield str(folder)


__path__ = _Path([str(_OWN)])
