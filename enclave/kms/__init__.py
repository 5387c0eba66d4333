"""Keys that AWS KMS gives only to attested enclaves: asking for them, opening what comes back, and sealing secrets with them.

Sans-IO like everything in the enclave: requests out as bytes, answers in as bytes, TLS in memory through the host's relay.
The host sees ciphertext; KMS sees an attestation document; only this enclave's RSA key, made for the one call, opens the answer.
`client` makes the calls, `calls` prints and reads them, `sigv4` signs them, `trust` judges KMS's certificate, `cms` opens the envelope,
`ber` reads its encoding, `sealed` keeps a secret outside between two lives of an image, `tls_secret` is the one that is kept so.
Not here: the security module's document (`enclave.nsm`), connecting (the host does), the key's policy (`ledgerd kms policy`).
"""
