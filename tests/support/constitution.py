"""Runs a constitution in the real engine, with tables of ours behind it and a service that only writes down what it is asked to do.

Stands for the enclave's script workers where only the text of a constitution matters. Tables are dicts of bytes, in and out, so that tests
compare what was written byte for byte. What a script may read or write in which phase is checked as CCF does it.
"""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from hashlib import new
from importlib.resources import files
from typing import Any, Final, NamedTuple

import quickjs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ledgerd.governance import constitution, tables

Tables = dict[str, dict[bytes, bytes]]

SINGLETON: Final = tables.SINGLETON


def text_of(order: tuple[str, ...]) -> str:
    """The text of one of our constitutions."""
    folder = files("ledgerd.governance.constitution")
    return constitution.join(order, lambda name: folder.joinpath(name).read_text("utf-8"))


class Refused(Exception):
    """A script threw; the message is what it threw."""


class Applied(NamedTuple):
    """What an accepted proposal did: the tables as they are now, and what it asked the service for, in order."""

    tables: Tables
    calls: list[list[Any]]


class Constitution:
    """One constitution. Args: text: JavaScript, which defines and exports `validate`, `resolve` and `apply`."""

    def __init__(self, text: str) -> None:
        self._context = context = quickjs.Context()
        for name, answer in _ANSWERS.items():
            context.add_callable(f"host_{name}", _as_json(answer))
        context.eval(_CCF)
        context.module(f"{text}\nglobalThis.constitution = {{ validate, resolve, apply }};\nglobalThis.actions = actions;")

    def validate(self, proposal: Any, before: Tables) -> str | None:
        """Returns: None if the proposal is valid, otherwise what is wrong."""
        answer, _, _ = self._call("validate", "read", before, _text(proposal))
        assert answer["valid"] is (answer["description"] == "")
        return None if answer["valid"] else answer["description"]

    def apply(self, proposal: Any, before: Tables, proposal_id: str = "00" * 32) -> Applied:
        """Raises: Refused: It cannot be done; nothing is."""
        _, after, calls = self._call("apply", "write", before, _text(proposal), proposal_id)
        return Applied(after, calls)

    def resolve(self, proposal: Any, votes: Mapping[str, bool], before: Tables, proposal_id: str = "00" * 32, proposer: str = "") -> str:
        """Returns: The state that follows from the votes."""
        listed = [{"member_id": member, "vote": vote} for member, vote in votes.items()]
        answer, _, _ = self._call("resolve", "read", before, _text(proposal), proposer, listed, proposal_id)
        return str(answer)

    def eval(self, expression: str) -> Any:
        """The value of an expression; tables are empty."""
        return json.loads(self._context.eval(f"JSON.stringify({expression})"))

    def _call(self, function: str, phase: str, before: Tables, *arguments: Any) -> tuple[Any, Tables, list[Any]]:
        sent = {name: {key.hex(): value.hex() for key, value in rows.items()} for name, rows in before.items()}
        asked = json.dumps([function, phase, sent, arguments])
        answer = json.loads(self._context.eval(f"run({json.dumps(asked)})"))
        if "threw" in answer:
            raise Refused(answer["threw"])
        after = {
            name: {bytes.fromhex(key): bytes.fromhex(value) for key, value in sorted(rows.items())}
            for name, rows in answer["tables"].items()
        }
        return answer.get("answer"), {name: rows for name, rows in after.items() if rows}, answer["calls"]


def changes(before: Tables, after: Tables) -> dict[str, dict[bytes, bytes | None]]:
    """What is different: only the tables and keys that changed, None where a record is gone."""
    found: dict[str, dict[bytes, bytes | None]] = {}
    for name in before.keys() | after.keys():
        old, new_rows = before.get(name, {}), after.get(name, {})
        rows = {key: new_rows.get(key) for key in old.keys() | new_rows.keys() if old.get(key) != new_rows.get(key)}
        if rows:
            found[name] = rows
    return found


def with_rows(before: Tables, **rows: Any) -> Tables:
    """A copy with other records: names of tables as in `governance.tables`, of keys to values; None takes one away."""
    after = deepcopy(before)
    for name, records in rows.items():
        table = after.setdefault(getattr(tables, name), {})
        for key, value in records.items():
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
    return after


def _text(proposal: Any) -> str:
    return proposal if isinstance(proposal, str) else json.dumps(proposal)


def _as_json(answer: Callable[..., Any]) -> Callable[[str], str]:
    """The engine passes texts only, and cuts them at a zero byte; an exception of ours must not pass through it."""

    def call(arguments: str) -> str:
        try:
            return json.dumps({"value": answer(*json.loads(arguments))})
        except Exception as error:  # whatever it is, the script is to see it
            return json.dumps({"error": f"{type(error).__name__}: {error}"})

    return call


def _certificates(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def _is_bundle(pem: str) -> bool:
    try:
        return bool(_certificates(pem))
    except ValueError:
        return False


def _is_chain(chain: str, trusted: str) -> bool:
    certificates = _certificates(chain)
    try:
        for child, parent in zip(certificates, [*certificates[1:], *_certificates(trusted)], strict=False):
            child.verify_directly_issued_by(parent)
    except Exception:
        return False
    return True


def _base64url(number: int, size: int) -> str:
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(number.to_bytes(size, "big")).decode().rstrip("=")


def _number(encoded: str) -> int:
    from base64 import urlsafe_b64decode

    return int.from_bytes(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)), "big")


def _rsa_pem_to_jwk(pem: str) -> dict[str, str]:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("not an RSA key")
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _base64url(numbers.n, (key.key_size + 7) // 8), "e": _base64url(numbers.e, 3)}


def _rsa_jwk_to_pem(jwk: dict[str, str]) -> str:
    rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key()
    return "PEM"


def _ec_jwk_to_pem(jwk: dict[str, str]) -> str:
    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[jwk["crv"]]
    ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), curve).public_key()
    return "PEM"


_ANSWERS: Final[dict[str, Callable[..., Any]]] = {
    "pemToId": lambda pem: _certificates(pem)[0].fingerprint(SHA256()).hex(),
    "isValidX509CertBundle": _is_bundle,
    "isValidX509CertChain": _is_chain,
    "pubRsaPemToJwk": _rsa_pem_to_jwk,
    "pubRsaJwkToPem": _rsa_jwk_to_pem,
    "pubJwkToPem": _ec_jwk_to_pem,
    "digest": lambda name, data: new(name.replace("-", ""), bytes.fromhex(data)).hexdigest(),
}

# The global `ccf` of a constitution. Bytes cross to Python in hex, everything else as JSON.
_CCF: Final = r"""
const toHex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const toBuffer = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16)).buffer;
function toText(buffer) {
  return decodeURIComponent(Array.from(new Uint8Array(buffer), (byte) => "%" + byte.toString(16).padStart(2, "0")).join(""));
}
function fromText(text) {
  if (typeof text !== "string") throw new TypeError("a string is needed");
  const escaped = unescape(encodeURIComponent(text));
  return Uint8Array.from(escaped, (character) => character.charCodeAt(0)).buffer;
}
function needBuffer(value) {
  if (!(value instanceof ArrayBuffer)) throw new TypeError("keys and values are ArrayBuffers");
  return toHex(value);
}
function host(name, ...args) {
  const answer = JSON.parse(globalThis["host_" + name](JSON.stringify(args)));
  if ("error" in answer) throw new Error(answer.error);
  return answer.value;
}
const state = { tables: new Map(), phase: "none", calls: [] };
const asked = (name, answer = () => undefined) => (...args) => {
  if (state.phase !== "write") throw new TypeError(`${name} may not be called before a proposal is accepted`);
  state.calls.push([name, ...args.map((arg) => (arg instanceof ArrayBuffer ? toText(arg) : arg === undefined ? null : arg))]);
  return answer(...args);
};
class Handle {
  constructor(name) {
    this.name = name;
  }
  get rows() {
    if (state.phase === "none") throw new TypeError("no table may be read here");
    if (!this.name.startsWith("public:ccf.")) throw new TypeError(`${this.name} may not be read`);
    return this.all;
  }
  get all() {
    if (!state.tables.has(this.name)) state.tables.set(this.name, new Map());
    return state.tables.get(this.name);
  }
  get writable() {
    const allowed = state.phase === "write" && /^public:(ccf\.gov\.|(?!ccf\.|ledgerd\.))/.test(this.name);
    if (!allowed) throw new TypeError(`${this.name} may not be written`);
    return this.all;
  }
  get size() {
    return this.rows.size;
  }
  has(key) {
    return this.rows.has(needBuffer(key));
  }
  get(key) {
    const value = this.rows.get(needBuffer(key));
    return value === undefined ? undefined : toBuffer(value);
  }
  set(key, value) {
    this.writable.set(needBuffer(key), needBuffer(value));
    return this;
  }
  delete(key) {
    this.writable.delete(needBuffer(key));
  }
  clear() {
    this.writable.clear();
  }
  forEach(visit) {
    for (const [key, value] of [...this.rows].reverse()) visit(toBuffer(value), toBuffer(key), this);
  }
}
globalThis.ccf = {
  strToBuf: fromText,
  bufToStr: toText,
  jsonCompatibleToBuf: (value) => fromText(JSON.stringify(value)),
  bufToJsonCompatible: (buffer) => JSON.parse(toText(buffer)),
  pemToId: (pem) => host("pemToId", pem),
  kv: new Proxy({}, { get: (_, name) => new Handle(name) }),
  crypto: {
    isValidX509CertBundle: (pem) => host("isValidX509CertBundle", pem),
    isValidX509CertChain: (chain, trusted) => host("isValidX509CertChain", chain, trusted),
    pubRsaPemToJwk: (pem) => host("pubRsaPemToJwk", pem),
    pubRsaJwkToPem: (jwk) => host("pubRsaJwkToPem", jwk),
    pubJwkToPem: (jwk) => host("pubJwkToPem", jwk),
    digest: (name, data) => toBuffer(host("digest", name, toHex(data))),
  },
  node: {
    triggerLedgerRekey: asked("triggerLedgerRekey"),
    transitionServiceToOpen: asked("transitionServiceToOpen"),
    triggerRecoverySharesRefresh: asked("triggerRecoverySharesRefresh"),
    triggerLedgerChunk: asked("triggerLedgerChunk"),
    triggerSnapshot: asked("triggerSnapshot"),
  },
  network: {
    getLatestLedgerSecretSeqno: () => 17,
    generateEndorsedCertificate: asked(
      "generateEndorsedCertificate",
      (csr, from, days) => `certificate for ${csr} from ${from} for ${days} days`,
    ),
    generateNetworkCertificate: asked("generateNetworkCertificate", (from, days) => `certificate from ${from} for ${days} days`),
  },
  gov: {
    validateConstitution(source) {
      if (!source.includes("export function validate")) throw new Error("it exports no function validate");
    },
    checkModules(modules) {
      for (const { name, module } of modules) if (module.includes("= ;")) throw new Error(`module ${name} cannot be loaded: SyntaxError`);
    },
  },
  refreshAppBytecodeCache: asked("refreshAppBytecodeCache"),
  setJwtPublicSigningKeys: asked("setJwtPublicSigningKeys"),
  removeJwtPublicSigningKeys: asked("removeJwtPublicSigningKeys"),
  tcbHexToPolicy: (cpuid, hex) => ({ hexstring: hex }),
};
const nested = (map) => Object.fromEntries([...map].map(([name, rows]) => [name, Object.fromEntries(rows)]));
globalThis.run = function (asked) {
  const [name, phase, before, args] = JSON.parse(asked);
  state.tables = new Map(Object.entries(before).map(([table, rows]) => [table, new Map(Object.entries(rows))]));
  state.calls = [];
  state.phase = phase;
  try {
    const answer = globalThis.constitution[name](...args);
    return JSON.stringify({ answer, tables: nested(state.tables), calls: state.calls });
  } catch (error) {
    return JSON.stringify({ threw: String(error?.message ?? error) });
  } finally {
    state.phase = "none";
  }
};
"""
