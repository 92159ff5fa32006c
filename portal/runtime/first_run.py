"""What an empty machine lacks: schema, static files, viewer, administrator. Each step may be repeated."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor

from portal.accounts.models import User
from portal.runtime.data_folder import DataFolder
from portal.runtime.errors import RuntimeProblem
from portal.viewer import install as viewer

Say = Callable[[str], None]
ADMINISTRATOR = "admin"
MIGRATING = 0x52454144  # the key of the advisory lock, any number of our own


def prepare(data: DataFolder, say: Say) -> str | None:
    """Do what is missing. Returns the administrator's password if this run made the account.

    Raises RuntimeProblem.
    """
    data.create()
    Path(settings.MEDIA_ROOT).mkdir(parents=True, exist_ok=True, mode=0o700)
    install_viewer(data, say)
    migrate(say)
    collect_static(say)
    return make_administrator(data)


def migrate(say: Say) -> None:
    """Bring the schema up to date, one process at a time even where several machines start together."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [MIGRATING])
        try:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                say("Bringing the database up to date")
                call_command("migrate", interactive=False, verbosity=0)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [MIGRATING])


def collect_static(say: Say) -> None:
    """Copy the static files under hashed names, unless they are there already and nothing changed."""
    stamp = Path(settings.STATIC_ROOT) / ".collected"
    state = _state_of_static_files()
    if stamp.exists() and stamp.read_text() == state:
        return
    say("Collecting the static files")
    call_command("collectstatic", interactive=False, clear=True, verbosity=0)
    stamp.write_text(state)


def _state_of_static_files() -> str:
    from django.contrib.staticfiles.finders import get_finders

    digest = hashlib.sha256(settings.STORAGES["staticfiles"]["BACKEND"].encode())
    for finder in get_finders():
        for path, storage in finder.list([]):
            status = os.stat(storage.path(path))
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def install_viewer(data: DataFolder, say: Say) -> None:
    tarball = os.environ.get("VIEWER_TARBALL")
    try:
        viewer.install(data.root, tarball=Path(tarball) if tarball else None, say=say)
    except viewer.InstallError as error:
        raise RuntimeProblem(error.cause, error.next_step) from error


def make_administrator(data: DataFolder) -> str | None:
    """The first superuser, with a random password that stays in a private file."""
    with transaction.atomic():
        if User.objects.filter(is_superuser=True).exists():
            return None
        password = data.read_or_create_secret(data.admin_password, 12)
        User.objects.create_superuser(username=ADMINISTRATOR, password=password)
    return password
