"""A disk whose power can be cut: a file system in a file (ext4 on a loop device). Takes root.

The cut is ext4's own: `FS_IOC_SHUTDOWN` without a flush of its log. Nothing written afterwards
arrives, and what was written before and not synced is gone, as far as ext4 had not got round to it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE_MIB = 600
_SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of linux/fs.h, which ext4 calls EXT4_IOC_SHUTDOWN."""
_NO_LOG_FLUSH = 2


class Disk:
    """A file system at a folder."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self.folder = folder
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE_MIB * 2**20)
        _run("mkfs.ext4", "-q", "-F", str(image))

    def mount(self) -> None:
        """Have it at its folder."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Take it away."""
        _run("umount", str(self.folder))

    def cut(self) -> None:
        """Cut the power."""
        root = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(root, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(root)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Make a disk at `folder`/disk, gone on leaving."""
    made = Disk(folder / "disk.img", folder / "disk")
    made.mount()
    try:
        yield made
    finally:
        made.unmount()
        (folder / "disk.img").unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
