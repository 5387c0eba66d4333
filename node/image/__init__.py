"""Enclave images: how one is made, the same on every machine, and how any of them is read without believing it.

From below: `errors`, `commands` (other programs), `tree` and `cpio` (files and their archive), `eif` and `signature` (the image's
format), `lock`, `packages`, `wheels` (what comes from others, by hash), `python` (work that the image's own interpreter does), `rootfs`
(what goes in), `sbom`, `build`, `describe`.
PCRs are computed in `ledger.attestation.measurement`.
"""
