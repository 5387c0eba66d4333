"""JSON Web Tokens (RFC 7519) of applications' callers: reading and verifying them, and getting the keys of those who issue them.

Not here: the policy `jwt` among the others (`enclave.auth`), what members may set (`governance.constitution`).
"""
