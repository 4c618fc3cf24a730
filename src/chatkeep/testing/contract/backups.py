"""Clauses on `backup`, which copies a store to a file. The drivers that break them stand below."""

from __future__ import annotations

import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

from ...drivers.base import Driver
from ...errors import Unsupported, UsageError
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, refused, together, written


class Backups(Clauses):
    """`backup`, which copies a store to a file."""

    @clause
    async def test_a_backup_is_a_new_file_or_refused(self, driver: Driver) -> None:
        """Where there is one, it is there when the call returns, and takes the place of nothing unless told to."""
        await written(driver, ADA, body=b"state")
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            answered = (await together([driver.backup(str(copy))]))[0]
            if isinstance(answered, Unsupported):
                assert str(answered)
                assert [] == list(copy.parent.iterdir())
                return
            assert answered is None
            assert [copy] == list(copy.parent.iterdir())
            held = copy.read_bytes()
            await refused(UsageError, driver.backup(str(copy)))

            assert held
            assert held == copy.read_bytes()
            await driver.backup(str(copy), replace=True)
            assert [copy] == list(copy.parent.iterdir())


# Drivers that break these clauses


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupPretended(Intact):
    """It says that it is done, and has written nothing."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        pass


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupReplaces(Intact):
    """The last backup is gone when the next one begins."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        Path(path).write_text(secrets.token_hex(8), encoding="utf-8")  # noqa: ASYNC240


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupLeavesParts(Intact):
    """It refuses, and leaves what it had begun."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        Path(f"{path}.part").write_text("half", encoding="utf-8")  # noqa: ASYNC240
        await super().backup(path, replace=replace)
