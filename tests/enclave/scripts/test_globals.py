"""Every global of CCF's, by the lists of its documentation: applications find theirs, a constitution its own, neither the other's."""

from typing import Final

import pytest

from ledgerd.enclave.governing.engine import CALLS_BEFORE, CALLS_OF_APPLY
from ledgerd.enclave.javascript.applications import CALLS
from ledgerd.enclave.ledger_calls import APPLICATION_CALLS
from ledgerd.enclave.scripts.access import Access
from support.scripts import value_of

_KEYS: Final = ("", "Rsa", "Eddsa")
EVERYWHERE: Final = (
    *(f"ccf.{name}" for name in ("strToBuf", "bufToStr", "jsonCompatibleToBuf", "bufToJsonCompatible", "pemToId", "kv")),
    *(f"ccf.crypto.{name}" for name in ("sign", "verifySignature", "wrapKey", "unwrapKey", "digest")),
    *(f"ccf.crypto.generate{name}" for name in ("AesKey", "RsaKeyPair", "EcdsaKeyPair", "EddsaKeyPair")),
    *(f"ccf.crypto.isValidX509Cert{name}" for name in ("Bundle", "Chain")),
    *(f"ccf.crypto.pub{kind}PemToJwk" for kind in _KEYS),
    *(f"ccf.crypto.pub{kind}JwkToPem" for kind in _KEYS),
    *(f"ccf.crypto.{name}PemToJwk" for name in ("rsa", "eddsa")),
    *(f"ccf.crypto.{name}JwkToPem" for name in ("rsa", "eddsa")),
    "ccf.crypto.pemToJwk",
    "ccf.crypto.jwkToPem",
    *(f"ccf.{name}" for name in ("generateAesKey", "generateRsaKeyPair", "wrapKey", "digest")),  # by their old names
    *(f"ccf.isValidX509Cert{name}" for name in ("Bundle", "Chain")),
    "ccf.enableUntrustedDateTime",
    "ccf.enableMetricsLogging",
    *(f"console.{name}" for name in ("log", "info", "warn", "error")),
    "snp_attestation.verifySnpAttestation",
)
OF_APPLICATIONS: Final = (
    *(f"ccf.consensus.{name}" for name in ("getLastCommittedTxId", "getStatusForTxId", "getViewForSeqno")),
    *(f"ccf.historical.{name}" for name in ("getStateRange", "dropCachedStates")),
    *(f"ccf.rpc.{name}" for name in ("setApplyWrites", "setClaimsDigest")),
)
OF_APPLY: Final = (
    *(f"ccf.node.{name}" for name in ("triggerLedgerRekey", "transitionServiceToOpen", "triggerRecoverySharesRefresh")),
    *(f"ccf.node.{name}" for name in ("triggerLedgerChunk", "triggerSnapshot")),
    *(f"ccf.network.{name}" for name in ("getLatestLedgerSecretSeqno", "generateEndorsedCertificate", "generateNetworkCertificate")),
    *(f"ccf.{name}" for name in ("refreshAppBytecodeCache", "setJwtPublicSigningKeys", "removeJwtPublicSigningKeys")),
)
OF_GOVERNANCE: Final = ("ccf.gov.validateConstitution", "ccf.tcbHexToPolicy")  # asked while a proposal is validated


@pytest.mark.parametrize(
    ("access", "calls", "there", "missing"),
    [
        (Access.APP_RW, (*CALLS, *APPLICATION_CALLS), OF_APPLICATIONS, (*OF_APPLY, "ccf.gov.validateConstitution")),
        (Access.APP_RO, (*CALLS, *APPLICATION_CALLS), OF_APPLICATIONS, (*OF_APPLY, "ccf.gov.validateConstitution")),
        (Access.GOV_RW, CALLS_OF_APPLY, (*OF_APPLY, *OF_GOVERNANCE), OF_APPLICATIONS),
        (Access.GOV_RO, CALLS_BEFORE, OF_GOVERNANCE, (*OF_APPLICATIONS, *OF_APPLY)),
    ],
    ids=["application", "application that reads", "apply", "validate, resolve and ballots"],
)
def test_scripts_find_what_is_meant_for_them(
    access: Access, calls: tuple[str, ...], there: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    asked = (*EVERYWHERE, *there, *missing)
    texts = ", ".join(f"(() => {{ try {{ return typeof {name}; }} catch {{ return 'undefined'; }} }})()" for name in asked)
    found = dict(zip(asked, value_of(f"return [{texts}];", access=access, calls=calls), strict=True))
    expected = {name: "undefined" if name in missing else "object" if name == "ccf.kv" else "function" for name in asked}
    assert found == expected
