"""`src.connection_pool` is `pqpool`."""

from pqpool_alias import install

install(__name__)
