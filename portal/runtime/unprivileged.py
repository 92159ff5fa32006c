"""Running a program as an unprivileged user when we are root, because PostgreSQL refuses to run as root.

A checkout or a data folder below a closed folder such as /root is out of reach for another user. Opening that folder
for everybody would be wrong, so the program gets the one capability that lets it pass through closed folders.
"""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from portal.runtime.errors import RuntimeProblem

SYSTEM_USER = "readroom"
# Bit numbers of capabilities(7). Containers usually withhold the narrower first one.
PASS_THROUGH = {"dac_read_search": 2, "dac_override": 1}


def system_user() -> pwd.struct_passwd:
    """The unprivileged user for PostgreSQL; made when root starts the portal for the first time."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    program = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if program:
        subprocess.run(
            [program, "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
            + [SYSTEM_USER],
            capture_output=True,
            check=False,
        )
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise RuntimeProblem(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made.",
            "Make it (useradd --system readroom), start the portal as an ordinary user, or set DATABASE_URL.",
        ) from None


def as_user(user: pwd.struct_passwd, *, reach: list[Path], death_signal: str | None = None) -> list[str]:
    """The command prefix that runs a program as `user`, able to reach the paths `reach`."""
    setpriv = shutil.which("setpriv") or shutil.which("setpriv", path="/usr/bin:/bin")
    if setpriv is None:
        raise RuntimeProblem(
            "PostgreSQL does not run as root, and setpriv (package util-linux) is missing.",
            "Install util-linux, start the portal as an ordinary user, or set DATABASE_URL.",
        )
    drop = [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    plain = [*drop, "--inh-caps=-all"]
    variants = [plain]
    for name, bit in PASS_THROUGH.items():
        if _effective_capabilities() & (1 << bit):
            keep = [f"--bounding-set=-all,+{name}", f"--inh-caps=-all,+{name}", f"--ambient-caps=+{name}"]
            # access(2) ignores capabilities after a change of user unless this bit is set.
            variants.append([*drop, "--securebits=+no_setuid_fixup", *keep])
    for variant in variants:
        if all(_reachable(variant, path) for path in reach):
            return [*variant, f"--pdeathsig={death_signal}"] if death_signal else variant
    raise RuntimeProblem(
        f"PostgreSQL does not run as root, and the user {user.pw_name} cannot reach {' and '.join(map(str, reach))}.",
        "Set DATA to a folder outside closed folders such as /root, start the portal as an ordinary user, or set "
        "DATABASE_URL.",
    )


def _reachable(prefix: list[str], path: Path) -> bool:
    check = subprocess.run([*prefix, "/bin/sh", "-c", 'test -x "$1"', "sh", str(path)], capture_output=True, cwd="/")
    return check.returncode == 0


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def is_root() -> bool:
    return os.geteuid() == 0
