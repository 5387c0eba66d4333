"""AMD SEV-SNP attestation reports: what one says, and proof that a chip of AMD's made it. No opinion beyond that.

`decode` reads form only and believes nothing; `verify` adds the chain (ARK, ASK, VCEK; or ARK, ASVK, VLEK), the signature, and that the
report is of the chip and the firmware that the leaf certifies. Certificates travel with the report; nothing is fetched.
Not here: whether such a guest is wanted (`snp_policy`), who vouches for its measurement (`uvm`).
Source: AMD 56860, "SEV Secure Nested Paging Firmware ABI", ATTESTATION_REPORT; AMD 57230, "VCEK Certificate and KDS Interface".
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509 import ObjectIdentifier, UnrecognizedExtension
from cryptography.x509.oid import SignatureAlgorithmOID

from ledgerd.ledger.attestation import certificates
from ledgerd.ledger.attestation.certificates import Loaded
from ledgerd.ledger.attestation.errors import AttestationError
from ledgerd.ledger.errors import ConfigurationError

REPORT_SIZE_BYTES: Final = 1_184
VERSIONS: Final = range(2, 6)  # 2, 3 and 5 are seen; a later one could move fields
ENDORSEMENTS_SIZE_BYTES_MAX: Final = 16_384  # three certificates in PEM take about 7 KB
CHAIN_LENGTH: Final = 3

MILAN: Final = "Milan"
GENOA: Final = "Genoa"
TURIN: Final = "Turin"

# SHA-256 of the DER of AMD's root of each kind of processor, as AMD's key distribution service gives it (/vcek/v1/KIND/cert_chain).
AMD_ARKS: Final[Mapping[str, str]] = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": MILAN,
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": GENOA,
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": TURIN,
}

_CPUID: Final = re.compile(r"[0-9a-f]{8}")
_SIGNED_BYTES: Final = 0x2A0
_COMPONENT_BYTES: Final = 72  # r, then s, little-endian
_POLICY_MIGRATION: Final = 1 << 18
_POLICY_DEBUG: Final = 1 << 19
_FLAG_CHIP_MASKED: Final = 1 << 1
_SIGNING_KEYS: Final = {0: "VCEK", 1: "VLEK"}
_EXTENSIONS: Final = "1.3.6.1.4.1.3704.1."
# Component of the firmware version: number of its extension, position in the report's eight bytes. Turin counts one more, first.
_TCB_LAYOUT: Final = {"boot_loader": ("3.1", 0), "tee": ("3.2", 1), "snp": ("3.3", 6), "microcode": ("3.8", 7)}
_TCB_LAYOUT_TURIN: Final = {
    "fmc": ("3.9", 0),
    "boot_loader": ("3.1", 1),
    "tee": ("3.2", 2),
    "snp": ("3.3", 3),
    "microcode": ("3.8", 7),
}
_ES384: Final = ec.ECDSA(hashes.SHA384())
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


class Tcb(NamedTuple):
    """Version of a processor's firmware, by component; `fmc` is Turin's alone."""

    boot_loader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    def reaches(self, least: "Tcb") -> bool:
        """Say whether no component is below that of `least`, and both have the same components."""
        if (self.fmc is None) != (least.fmc is None):
            return False
        return all((own or 0) >= (other or 0) for own, other in zip(self, least, strict=True))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._asdict().items() if value is not None)


class Cpu(NamedTuple):
    """What kind of processor it is, as CPUID numbers it."""

    family: int
    model: int
    stepping: int

    @property
    def product(self) -> str | None:
        """Milan, Genoa (with its siblings Bergamo and Siena), Turin; None for others."""
        if self.family == 0x19:
            return MILAN if self.model < 0x10 else GENOA if self.model < 0x20 or 0xA0 <= self.model < 0xB0 else None
        return TURIN if self.family == 0x1A and self.model < 0x20 else None


class Report(NamedTuple):
    """What a report says; nothing in it is proven.

    Attributes:
        version: Of the report's layout.
        policy: What the guest's owner allowed, as bits.
        vmpl: Privilege level at which the report was asked for: 0 to 3, 0 the highest; above, by the host.
        signing_key: `VCEK` (the chip's) or `VLEK` (a cloud's, loaded into the chip).
        chip_masked: The host hides which chip it is.
        report_data: 64 bytes that the guest chose.
        measurement: 48 bytes: what memory held when the guest was launched.
        host_data: 32 bytes that the host chose at launch and cannot change; on Azure the digest of the container policy.
        reported_tcb: Eight bytes; their meaning depends on the processor.
        cpu: None before version 3.
        chip_id: 64 bytes.
        signed: The bytes that are signed.
        signature: r and s.
    """

    version: int
    policy: int
    vmpl: int
    signing_key: str
    chip_masked: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    reported_tcb: bytes
    cpu: Cpu | None
    chip_id: bytes
    signed: bytes
    signature: tuple[int, int]


class SnpAttestation(NamedTuple):
    """What a report proves: a chip whose key is certified below `root` signed exactly this.

    Attributes:
        product: Milan, Genoa or Turin.
        cpu: As in `Report`.
        tcb: Version of the firmware, which the leaf certifies.
        signing_key, vmpl, report_data, measurement, host_data, chip_id: As in `Report`.
        debug: The host may read and change the guest's memory.
        may_migrate: The guest may be moved to another machine, by an agent that is measured elsewhere.
        root: Hex SHA-256 of the root's DER.
        simulated: The root is none of AMD's: there may be no such chip at all.
    """

    product: str
    cpu: Cpu | None
    tcb: Tcb
    signing_key: str
    vmpl: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    chip_id: bytes
    debug: bool
    may_migrate: bool
    root: str
    simulated: bool


def decode(report: bytes) -> Report:
    """Read a report's form strictly. Believes nothing: use `verify`.

    Raises: AttestationError: Rules `size`, `form`, `algorithm`.
    """
    if len(report) != REPORT_SIZE_BYTES:
        raise AttestationError(
            "size", f"a report of {len(report)} bytes", f"{REPORT_SIZE_BYTES} bytes", "send the report as the firmware made it, not as text"
        )
    version, algorithm, flags = _u32(report, 0), _u32(report, 0x34), _u32(report, 0x48)
    if version not in VERSIONS:
        _refuse_form(f"a report of version {version}", f"{VERSIONS[0]} to {VERSIONS[-1]}")
    if algorithm != 1:
        raise AttestationError(
            "algorithm", f"signature algorithm {algorithm}", "1, ECDSA P-384 with SHA-384", "AMD uses nothing else: trust nothing of this"
        )
    signing_key = _SIGNING_KEYS.get(flags >> 2 & 7)
    if signing_key is None:
        _refuse_form(f"a report signed by key kind {flags >> 2 & 7}", "0 (VCEK) or 1 (VLEK)")
    r, s = (int.from_bytes(report[at : at + _COMPONENT_BYTES], "little") for at in (_SIGNED_BYTES, _SIGNED_BYTES + _COMPONENT_BYTES))
    if any(report[_SIGNED_BYTES + 2 * _COMPONENT_BYTES :]):
        _refuse_form("bytes after the signature that are not zero", "zeros")
    return Report(
        version,
        int.from_bytes(report[8:16], "little"),
        _u32(report, 0x30),
        signing_key,
        bool(flags & _FLAG_CHIP_MASKED),
        report[0x50:0x90],
        report[0x90:0xC0],
        report[0xC0:0xE0],
        report[0x180:0x188],
        Cpu(*report[0x188:0x18B]) if version >= 3 else None,
        report[0x1A0:0x1E0],
        report[:_SIGNED_BYTES],
        (r, s),
    )


def verify(report: bytes, endorsements: bytes, *, at_ms: int, arks: Mapping[str, str] = AMD_ARKS) -> SnpAttestation:
    """Prove that a chip certified below one of `arks` made a report. Not enough to admit anybody: see `snp_policy`.

    Args:
        report: As the firmware made it.
        endorsements: PEM: VCEK or VLEK, ASK or ASVK, ARK, in this order, as CCF records them.
        at_ms: When every certificate must be valid, milliseconds since 1970.
        arks: Accepted roots, hex SHA-256 of the DER, and whose they are: Milan, Genoa or Turin.
    Raises: AttestationError: Rules `size` to `tcb` of `errors.RULES`.
    """
    said = decode(report)
    root, product, leaf = _verify_chain(endorsements, arks, at_ms)
    key = leaf.key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AttestationError(
            "algorithm", f"{leaf.name} has another key", "a key on P-384", "AMD uses nothing else: trust nothing of this"
        )
    try:
        key.verify(encode_dss_signature(*said.signature), said.signed, _ES384)
    except InvalidSignature:
        raise AttestationError(
            "signature",
            "a signature that does not fit the report",
            f"a signature by the key that {leaf.name} certifies",
            "the report was changed, or the certificate is of another chip or firmware version: get both anew, together",
        ) from None
    tcb = _check_leaf(said, product, leaf)
    return SnpAttestation(
        product,
        said.cpu,
        tcb,
        said.signing_key,
        said.vmpl,
        said.report_data,
        said.measurement,
        said.host_data,
        said.chip_id,
        is_debug(said),
        bool(said.policy & _POLICY_MIGRATION),
        root,
        root not in AMD_ARKS,
    )


def _verify_chain(endorsements: bytes, arks: Mapping[str, str], at_ms: int) -> tuple[str, str, Loaded]:
    """Walk from the root to the leaf; return the root's fingerprint, whose it is, and the leaf."""
    if len(endorsements) > ENDORSEMENTS_SIZE_BYTES_MAX:
        raise AttestationError(
            "size",
            f"endorsements of {len(endorsements)} bytes",
            f"at most {ENDORSEMENTS_SIZE_BYTES_MAX} bytes",
            "send the chain of this one report",
        )
    try:
        ders = certificates.split_pem(endorsements)
    except ValueError as error:
        _refuse_form(f"endorsements with {error}", "three PEM certificates")
    if len(ders) != CHAIN_LENGTH:
        _refuse_form(f"endorsements of {len(ders)} certificates", "three: VCEK or VLEK, ASK or ASVK, ARK, in this order")
    fingerprint = sha256(ders[-1]).hexdigest()
    product = arks.get(fingerprint)
    if product is None:
        raise AttestationError(
            "root",
            f"a chain that ends at {fingerprint} (SHA-256 of its DER)",
            " or ".join(f"{known} ({whose})" for known, whose in arks.items()) or "a root, but none is accepted",
            "the chain is not one of AMD's for processors that are supported: get VCEK, ASK and ARK from AMD",
        )
    at_s = at_ms // 1000
    issuer: Loaded | None = None
    for depth, der in enumerate(reversed(ders)):
        is_leaf = depth == CHAIN_LENGTH - 1
        try:
            loaded = certificates.load(der, serial_may_be_zero=is_leaf)
            role = certificates.role(loaded)
        except ValueError as error:
            _refuse_chain(f"a certificate that cannot be read: {error}", "X.509 version 3")
        if issuer is not None:
            _check_issued(loaded, issuer)
        if not loaded.is_valid_at(at_s):
            raise AttestationError(
                "validity",
                f"{loaded.name} is valid from {loaded.validity}",
                f"validity at {at_s} (seconds since 1970)",
                "get the certificate anew from AMD; if that one is refused too, compare both clocks",
            )
        if is_leaf and role.is_authority:
            _refuse_chain(f"{loaded.name}, which certifies a chip, is an authority", "a certificate that signs reports only")
        if not is_leaf and not role.is_authority:
            _refuse_chain(f"{loaded.name} may not issue certificates", "a certificate authority")
        if not is_leaf and role.path_length is not None and role.path_length < CHAIN_LENGTH - 2 - depth:
            _refuse_chain(f"{loaded.name} has path length {role.path_length}", f"at least {CHAIN_LENGTH - 2 - depth}")
        issuer = loaded
    assert issuer is not None
    return fingerprint, product, issuer


def _check_issued(loaded: Loaded, issuer: Loaded) -> None:
    """Check name and signature, RSASSA-PSS with SHA-384, over the bytes that were signed."""
    key, certificate = issuer.key, loaded.certificate
    if not isinstance(key, rsa.RSAPublicKey) or certificate.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        raise AttestationError(
            "algorithm",
            f"{loaded.name} is not signed by RSASSA-PSS",
            "RSASSA-PSS with SHA-384",
            "AMD uses nothing else: trust nothing of this",
        )
    try:
        if not certificates.is_named_by(loaded, issuer):
            raise InvalidSignature
        key.verify(certificate.signature, loaded.signed, _PSS, hashes.SHA384())
    except InvalidSignature:
        _refuse_chain(f"{loaded.name}: not issued by {issuer.name}", "a name and a signature of the certificate after it")


def _check_leaf(said: Report, product: str, leaf: Loaded) -> Tcb:
    """Check that the report is of the chip and the firmware that the leaf certifies; return the firmware's version."""
    names = leaf.common_names
    if names != [f"SEV-{said.signing_key}"]:
        _refuse_chip(f"a report signed by a {said.signing_key}, with the certificate of {', '.join(names)[:100] or 'nobody'}", "one kind")
    if said.cpu is not None and said.cpu.product != product:
        _refuse_chip(f"a report of family {said.cpu.family:#x}, model {said.cpu.model:#x}, below the root of {product}", f"a {product}")
    extensions = {
        extension.oid: extension.value.value
        for extension in leaf.certificate.extensions
        if isinstance(extension.value, UnrecognizedExtension)
    }
    if said.signing_key == "VCEK":
        if said.chip_masked or not any(said.chip_id):
            _refuse_chip("a report whose host hides the chip", "one that names it: set MASK_CHIP_ID and MASK_CHIP_KEY to 0")
        _check_chip_id(said.chip_id, product, extensions.get(ObjectIdentifier(f"{_EXTENSIONS}4")))
    layout = _layout(product)
    reported = tcb_of(said.reported_tcb, product)
    certified = {name: _integer(extensions.get(ObjectIdentifier(_EXTENSIONS + number))) for name, (number, _) in layout.items()}
    # Equal, not only enough: the key exists for this version alone, and older firmware can make keys of no newer one.
    if any(certified[name] != getattr(reported, name) for name in layout):
        raise AttestationError(
            "tcb",
            f"a report of firmware {reported}",
            "the certified one, " + ", ".join(f"{name} {'absent' if value is None else value}" for name, value in certified.items()),
            "get the certificate for the firmware version that the report names",
        )
    return reported


def is_debug(said: Report) -> bool:
    """Say whether the guest's owner allowed the host to read and change its memory."""
    return bool(said.policy & _POLICY_DEBUG)


def tcb_of(raw: bytes, product: str) -> Tcb:
    """Read the eight bytes of a firmware version, as a report of that product has them."""
    return Tcb(**{name: raw[at] for name, (_, at) in _layout(product).items()})


def cpuid(cpu: Cpu) -> str:
    """CPUID of a processor as CCF writes it: EAX of leaf 1, 8 hex characters."""
    base, extended = min(cpu.family, 0xF), max(cpu.family - 0xF, 0)
    return f"{extended << 20 | cpu.model >> 4 << 16 | base << 8 | (cpu.model & 0xF) << 4 | cpu.stepping:08x}"


def parse_cpuid(text: str) -> Cpu:
    """Inverse of `cpuid`.

    Raises: ConfigurationError: It is not 8 lower-case hex characters.
    """
    if not _CPUID.fullmatch(text):
        raise ConfigurationError(f"CPUID {text[:100]!r} is not 8 lower-case hex characters, such as 00a00f11 for Milan")
    eax = int(text, 16)
    return Cpu((eax >> 8 & 0xF) + (eax >> 20 & 0xFF), (eax >> 16 & 0xF) << 4 | eax >> 4 & 0xF, eax & 0xF)


def _layout(product: str) -> dict[str, tuple[str, int]]:
    return _TCB_LAYOUT_TURIN if product == TURIN else _TCB_LAYOUT


def _check_chip_id(chip_id: bytes, product: str, certified: bytes | None) -> None:
    """Compare with the certificate's hardware id: 64 bytes, bare or as an OCTET STRING; on Turin 8, and zeros in the report."""
    size = 8 if product == TURIN else 64
    if certified is not None and len(certified) == size + 2 and certified[:2] == bytes((0x04, size)):
        certified = certified[2:]
    if certified is None or certified + bytes(64 - size) != chip_id:
        seen = "absent" if certified is None else certified[:64].hex()
        _refuse_chip(f"a report of chip {chip_id.hex()}, with the certificate of chip {seen}", "the certificate of the report's chip")


def _integer(der: bytes | None) -> int | None:
    """Read a DER INTEGER from 0 to 255; None for everything else."""
    if der is None or len(der) not in (3, 4) or der[0] != 0x02 or der[1] != len(der) - 2:
        return None
    number = int.from_bytes(der[2:], "big", signed=True)
    return number if 0 <= number <= 255 and (len(der) == 3 or number > 127) else None


def _u32(report: bytes, at: int) -> int:
    return int.from_bytes(report[at : at + 4], "little")


def _refuse_form(seen: str, expected: str) -> NoReturn:
    raise AttestationError("form", seen, expected, "send the report as the firmware made it, and its certificates as AMD made them")


def _refuse_chain(seen: str, expected: str) -> NoReturn:
    raise AttestationError("chain", seen, expected, "these are not AMD's certificates: get VCEK, ASK and ARK from AMD's key distribution")


def _refuse_chip(seen: str, expected: str) -> NoReturn:
    raise AttestationError("chip", seen, expected, "get the certificate for the chip that the report names")
