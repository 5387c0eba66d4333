"""A security module in software, for the launchers that have none: same requests, same documents, another root.

Whatever it signs is marked by its root: verifiers say SIMULATED, and a service that does not accept that root refuses.
`pki` makes the certificates, `nsm` behaves like the device, `server` offers it on a socket.
It stands on the host, since there is nobody else to stand in for the hypervisor: it proves nothing, and protects nothing.
"""
