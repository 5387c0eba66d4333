"""Builds an enclave image: the same bytes on every machine from the same sources, locks, kernel and platform ramdisk.

    image = build(ImageSpec(app="ledgerd.apps.logging", kernel=..., platform_ramdisk=..., command_line=...), store)
    image.eif(); image.measurement; image.ramdisks

Nothing here looks at the clock, the user, the machine or the order of a folder. What comes from others comes by hash; what depends on
who makes it is made by the image's own Python.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import metadata as distributions
from pathlib import Path
from typing import Any, Final, NamedTuple

import ledgerd
from ledgerd.enclave.boundary import LINK_PORT_DEFAULT
from ledgerd.ledger.attestation.measurement import Measurement, image_pcrs
from ledgerd.node.image import cpio, eif, lock, packages, rootfs, sbom, signature, wheels
from ledgerd.node.image.errors import ImageError
from ledgerd.node.image.lock import Locked, Store
from ledgerd.node.image.python import ImagePython, Tools
from ledgerd.node.image.tree import Tree
from ledgerd.node.measure import TRUSTED_PACKAGES, check_application, files_of, is_package

MEMORY_BYTES_DEFAULT: Final = 1 << 30
CPUS_DEFAULT: Final = 2
BUILD_TIME: Final = "1970-01-01T00:00:00+00:00"  # metadata must have one; a true one would be another in every build

Say = Callable[[str], None]


class Signer(NamedTuple):
    """Who vouches for an image, both as PEM; the key is of P-384."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class ImageSpec:
    """What an image is to be made of.

    Attributes:
        app: Dotted name of the application's module or package.
        kernel: As the platform boots it.
        platform_ramdisk: Ramdisk 0: init, and the modules of the kernel that it loads.
        command_line: Of the kernel.
        app_folder: Where to look for the application, if it is not installed.
        link_port: The parent's vsock port to which the enclave connects.
        name: Of the image; said in its metadata only.
        memory_bytes: What the image asks for where its starter names none. Not measured.
        cpus: The same.
        signer: Makes PCR8 something else than zero.
        packages: From `packages.lock` unless told.
        wheels: From `wheels.lock` unless told.
    """

    app: str
    kernel: bytes = field(repr=False)
    platform_ramdisk: bytes = field(repr=False)
    command_line: str
    app_folder: Path | None = None
    link_port: int = LINK_PORT_DEFAULT
    name: str = "ledgerd"
    memory_bytes: int = MEMORY_BYTES_DEFAULT
    cpus: int = CPUS_DEFAULT
    signer: Signer | None = field(default=None, repr=False)
    packages: tuple[Locked, ...] = field(default_factory=lambda: lock.parse_packages(lock.PACKAGES.read_text()), repr=False)
    wheels: tuple[Locked, ...] = field(default_factory=lambda: lock.parse_wheels(lock.WHEELS.read_text()), repr=False)


class Parts(NamedTuple):
    """What comes from others, unpacked."""

    packages: Sequence[Tree]
    wheels: Sequence[Tree]


@dataclass(frozen=True)
class Image:
    """A built image, and everything from which a virtual machine can start it without a file.

    Attributes:
        spec: What it was made of: kernel, command line, and all that is only asked for.
        modules: Our own sources and the application's, by path.
        ramdisks: The platform's, then ours (gzip of a cpio archive).
        measurement: PCR0, 1, 2; and 8 if it is signed.
        metadata: Said in the file and measured by nobody.
        signature: The section's bytes, if it is signed.
        sbom: Bill of materials, CycloneDX JSON.
        root: What `ramdisks[1]` holds below `rootfs/`.
        archive_bytes: Size of our ramdisk before it is compressed: what it takes of the enclave's memory.
    """

    spec: ImageSpec
    modules: Mapping[str, bytes] = field(repr=False)
    ramdisks: tuple[bytes, bytes] = field(repr=False)
    measurement: Measurement
    metadata: Mapping[str, Any]
    signature: bytes | None = field(repr=False)
    sbom: bytes = field(repr=False)
    root: Tree = field(repr=False)
    archive_bytes: int

    def on(self, kernel: bytes, platform_ramdisk: bytes, command_line: str) -> "Image":
        """The same ramdisk of ours on another platform: PCR2 stays, PCR0 and PCR1 are the platform's."""
        spec = replace(self.spec, kernel=kernel, platform_ramdisk=platform_ramdisk, command_line=command_line)
        return _finish(spec, self.modules, self.root, self.archive_bytes, self.ramdisks[1])

    def eif(self) -> bytes:
        """The image as a file."""
        return eif.write(
            self.spec.kernel,
            self.spec.command_line,
            self.ramdisks,
            metadata=self.metadata,
            signature=self.signature,
            memory_bytes=self.spec.memory_bytes,
            cpus=self.spec.cpus,
        )


def build(spec: ImageSpec, store: Store, say: Say = lambda _: None) -> Image:
    """Build an image, fetching what the store lacks.

    Args:
        store: Where packages and wheels are kept between builds.
        say: Is told what takes long.
    Raises:
        ConfigurationError: The application, a lock or an option is wrong.
        ImageError: Something cannot be fetched, unpacked, compiled, or imported in the image.
        IntegrityError: Something was fetched that is not what the locks mean.
    """
    modules = modules_of(spec)
    packages.fetch(spec.packages, store, say)
    wheels.fetch(spec.wheels, store, say)
    say("unpacking")
    parts = Parts(
        [packages.unpack(store.read(item), str(item)) for item in spec.packages],
        [wheels.unpack(store.read(item), str(item)) for item in spec.wheels],
    )
    with tempfile.TemporaryDirectory(prefix="ledgerd-image-") as name:
        tools_folder, root_folder = (Path(name).resolve() / part for part in ("tools", "root"))
        tools_folder.mkdir()
        root_folder.mkdir()
        tools = ImagePython(rootfs.platform_tree(parts.packages), tools_folder)
        image = assemble(spec, parts, modules, tools, say)
        say("importing the application in the image")
        runs = ImagePython(image.root, root_folder)
        outside = runs.outside_after_import(f"{rootfs.RUNTIME}.main", "ledgerd.enclave.core", spec.app)
        if outside:
            raise ImageError(
                f"modules of the image need what it does not hold: {', '.join(outside)}; see LIBRARIES_KEPT in node/image/rootfs.py"
            )
    return image


def assemble(spec: ImageSpec, parts: Parts, modules: Mapping[str, bytes], tools: Tools, say: Say = lambda _: None) -> Image:
    """Put an image together from what was unpacked.

    Args:
        modules: Our own files and the application's, by path below the folder of packages.
        tools: What compiles and compresses.
    Raises: As `build`, but for what has to do with fetching.
    """
    everything = rootfs.platform_tree(parts.packages)
    root = rootfs.system(everything)
    root.update(rootfs.standard_library(everything))
    root.update(rootfs.wheels(parts.wheels))
    root.update(rootfs.sources(modules))
    say("compiling modules")
    root = rootfs.compiled(root, tools)
    archive = cpio.archive(rootfs.ramdisk_tree(root, rootfs.command(spec.app, spec.link_port)))
    say(f"compressing {len(archive) >> 20} MiB")
    return _finish(spec, modules, root, len(archive), tools.compress(archive))


def _finish(spec: ImageSpec, modules: Mapping[str, bytes], root: Tree, archive_bytes: int, ramdisk: bytes) -> Image:
    """Measure, sign and describe. Our ramdisk is there; the rest is given."""
    ramdisks = (spec.platform_ramdisk, ramdisk)
    certificate = None if spec.signer is None else signature.certificate_der(spec.signer.certificate)
    measurement = image_pcrs(spec.kernel, spec.command_line.encode(), ramdisks, certificate)
    signed = None if spec.signer is None else signature.sign(measurement.pcr0, spec.signer.certificate, spec.signer.key)
    version = _version()
    blobs = {"kernel": spec.kernel, "platform-ramdisk": spec.platform_ramdisk}
    bill = sbom.bill(spec.name, version, measurement, spec.packages, spec.wheels, blobs, modules)
    metadata = {
        "ImageName": spec.name,
        "ImageVersion": version,
        "BuildMetadata": {
            "BuildTime": BUILD_TIME,
            "BuildTool": "ledgerd image build",
            "BuildToolVersion": version,
            "OperatingSystem": "Debian 12",
            "KernelVersion": "as given",
        },
        "DockerInfo": {},
        "CustomMetadata": {"Application": spec.app, "LinkPort": spec.link_port, "SbomSha256": sha256(bill).hexdigest()},
    }
    image = Image(spec, modules, ramdisks, measurement, metadata, signed, bill, root, archive_bytes)
    _check(image)
    return image


def modules_of(spec: ImageSpec) -> dict[str, bytes]:
    """Our own files and the application's, by path below the folder of packages; of ours no machine code (docs/adr/0010).

    Raises: ConfigurationError.
    """
    check_application(spec.app, spec.app_folder)
    found = {"ledgerd/__init__.py": Path(str(ledgerd.__file__)).read_bytes()}
    for package in TRUSTED_PACKAGES:
        found |= _below(package, is_package(package), [item for item in files_of(package) if not item[0].endswith(".so")])
    found |= _below(spec.app, is_package(spec.app, spec.app_folder), files_of(spec.app, spec.app_folder))
    above = spec.app.split(".")[:-1]
    for end in range(1, len(above) + 1):
        package = ".".join(above[:end])
        if package != "ledgerd":
            own = dict(files_of(package, spec.app_folder))
            found |= _below(package, True, [("__init__.py", own["__init__.py"])] if "__init__.py" in own else [])
    return {path: data for path, data in found.items() if not path.rpartition("/")[2].startswith(".")}


def _below(module: str, package: bool, files: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    parts = module.split(".")
    folder = "/".join(parts if package else parts[:-1])
    return {f"{folder}/{name}" if folder else name: data for name, data in files}


def _version() -> str:
    try:
        return distributions.version("ledgerd")
    except distributions.PackageNotFoundError:
        return "0"


def _check(image: Image) -> None:
    """Read the image back, as a stranger would: what we write must be what we measure. Our own invariant."""
    found = eif.read(image.eif())
    measured = found.measure()
    assert (measured.pcr0, measured.pcr1, measured.pcr2) == image.measurement[:3], "the file is measured as its parts were"
