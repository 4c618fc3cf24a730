"""PostgreSQL."""

from .driver import PostgresqlDriver

__all__ = ["PostgresqlDriver"]
