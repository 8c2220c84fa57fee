"""Sessions in Redis or Valkey: on one server, behind sentinels, or on a Cluster."""

from .store import RedisStore

__all__ = ["RedisStore"]
