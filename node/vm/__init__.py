"""The virtual machine in which an enclave image runs on any Linux machine: QEMU, with stand-ins for what AWS's platform gives.

`rings` reads and writes the guest's queues, `packets` and `streams` are the vsock protocol, `device` joins them, `vhost` is how QEMU hands
them over, `backend` runs all that in a thread. `guest` is the init of the stand-in platform, `platform` builds its kernel and ramdisk 0,
`images` keeps what was built, `launcher` starts a machine.
It shows that the image works as it is: another kernel, no network device, AF_VSOCK, the ioctl of `/dev/nsm`. It protects nothing from the
machine's owner, and its documents are SIMULATED.
"""
