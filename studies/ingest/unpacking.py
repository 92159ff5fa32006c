"""An uploaded archive as a folder of plain files, for importers that look things up by name."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

from studies.ingest import limits
from studies.ingest.importing import zip_entries
from studies.ingest.outcome import Refused

MAX_TOTAL = 64 << 30  # bytes of all entries, unpacked


def unpack(archive: Path, folder: Path) -> list[tuple[str, Refused]]:
    """Write the entries of a zip archive below `folder`; returns those that were left out, with the reason.

    Paths that lead outside, links, encrypted and damaged entries and what unpacks out of proportion are left out.
    """
    left_out: list[tuple[str, Refused]] = []
    total = 0
    with open(archive, "rb") as file:
        for source, shown in zip_entries(file, "archive"):
            name = shown.removeprefix("archive/")
            if isinstance(source, Refused):
                left_out.append((name, source))
                continue
            target = folder.joinpath(*PurePosixPath(name.replace("\\", "/")).parts)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as out:
                    shutil.copyfileobj(source, out, limits.COPY)  # type: ignore[arg-type]
            except Refused as refused:
                target.unlink(missing_ok=True)
                left_out.append((name, refused))
                continue
            except (OSError, ValueError):  # a name that the file system does not take, or that is there already
                left_out.append((name, Refused("unsafe_path", "The entry's name cannot be a file's.", keep=False)))
                continue
            total += target.stat().st_size
            if total > MAX_TOTAL:
                left_out.append((name, Refused("zip_bomb", "The archive unpacks to more than 64 GB.", keep=False)))
                break
    return left_out
