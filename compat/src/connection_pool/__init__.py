"""`src.connection_pool` is `pqpool`; `src` itself is a namespace package, open to others."""

from pqpool_alias import install

install(__name__)
