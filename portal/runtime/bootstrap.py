"""Set up the virtual environment: `python3 portal/runtime/bootstrap.py requirements.lock`.

Runs with any Python and no package at all. Does nothing where the lock file that is installed has not changed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENVIRONMENT = os.path.join(REPOSITORY, ".venv")
PYTHON = os.path.join(ENVIRONMENT, "bin", "python")
STAMP = os.path.join(ENVIRONMENT, ".installed.json")
# The lock for development holds the other one, line by line.
CONTAINS = {"requirements-dev.lock": ["requirements.lock"]}
OLDEST = (3, 11)


def fail(message):
    sys.exit(f"Error: {message}")


def say(message):
    print(message, flush=True)  # noqa: T201


def newer_python():
    """Another Python on this machine that is new enough, for where `python3` is an old one."""
    for minor in range(14, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    return None


def digest(lock):
    with open(os.path.join(REPOSITORY, lock), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def installed():
    """Lock file → digest of what is installed; nothing if the environment is missing, broken or was moved."""
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    if stamp.get("folder") != ENVIRONMENT or not os.access(PYTHON, os.X_OK):
        return {}
    return stamp.get("locks", {})


def make_environment():
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        fail(f"this Python cannot make virtual environments. As root: apt-get install {package}")
    say("Making the virtual environment .venv")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", ENVIRONMENT]) != 0:
        fail(f"the virtual environment {ENVIRONMENT} could not be made; the lines above say why.")


def install(lock):
    known = installed()
    if known.get(lock) == digest(lock):
        return
    if not known:
        make_environment()
    say(f"Installing the packages of {lock} (some minutes the first time)")
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", lock]
    if subprocess.call(command, cwd=REPOSITORY) != 0:
        fail(f"the packages of {lock} could not be installed; the lines above say why. Then start again.")
    locks = {name: digest(name) for name in [lock, *CONTAINS.get(lock, [])]}
    with open(STAMP + ".new", "w") as file:
        json.dump({"folder": ENVIRONMENT, "locks": {**known, **locks}}, file)
    os.replace(STAMP + ".new", STAMP)


def main():
    if sys.version_info < OLDEST:
        other = newer_python()
        if other is None:
            fail(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}. Set PYTHON to a newer one.")
        os.execv(other, [other, *sys.argv])  # noqa: S606
    with open(os.path.join(REPOSITORY, ".venv.lock"), "w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        install(sys.argv[1])


if __name__ == "__main__":
    main()
