"""What machines are started from, made once and kept: the stand-in platform, and images of applications.

Kept beside packages and wheels, under names that hold a hash of everything that goes in: what is found by its name is what would be built.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledgerd.ledger.errors import ConfigurationError
from ledgerd.node.image import eif
from ledgerd.node.image.build import ImageSpec, build, modules_of
from ledgerd.node.image.errors import EifError
from ledgerd.node.image.lock import Store
from ledgerd.node.vm import platform
from ledgerd.node.vm.platform import Platform

FORMAT: Final = "ledgerd virtual machine image 1"
Say = Callable[[str], None]


def stand_in(folder: Path, say: Say = lambda _: None) -> Platform:
    """The platform on which machines start.

    Args:
        folder: Where packages, wheels and what is made of them are kept.
        say: Is told what takes long.
    Raises: ConfigurationError, ImageError, IntegrityError: It cannot be made; see `platform.build`.
    """
    path = folder / f"vm-platform-{platform.digest()[:32]}.eif"
    if not path.is_file():
        made = platform.build(Store(folder), say)
        _keep(path, eif.write(made.kernel, made.command_line, [made.ramdisk], metadata=None))
        return made
    found = read(path)
    return Platform(bytes(found.all(eif.Kind.KERNEL)[0]), bytes(found.all(eif.Kind.RAMDISK)[0]), found.command_line)


def application(app: str, app_folder: Path | None, folder: Path, say: Say = lambda _: None) -> Path:
    """An image of an application, on the stand-in platform: the file.

    Args:
        app, app_folder: Its module, and where to look for it if it is not installed.
        folder, say: As for `stand_in`.
    Raises: As `image.build.build`.
    """
    under = stand_in(folder, say)
    spec = ImageSpec(app, under.kernel, under.ramdisk, under.command_line, app_folder=app_folder)
    digest = sha256(f"{FORMAT}\n{platform.digest()}\n{app}\n{spec.link_port}\n".encode())
    for item in (*spec.packages, *spec.wheels):
        digest.update(item.sha256.encode())
    for name, data in sorted(modules_of(spec).items()):
        digest.update(f"{name} {len(data)}\n".encode() + data)
    path = folder / f"vm-image-{digest.hexdigest()[:32]}.eif"
    if not path.is_file():
        _keep(path, build(replace(spec, name=f"{app}-vm"), Store(folder), say).eif())
    return path


def read(path: Path) -> eif.Eif:
    """An image from a file. Raises: ConfigurationError: It cannot be read, or is none."""
    try:
        return eif.read(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except EifError as error:
        raise ConfigurationError(f"{path} is {error}") from None


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all, and whoever else makes the same at the same time does no harm."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(data)
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
