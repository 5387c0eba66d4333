"""CCF's scenario language on our consensus core: `language` reads a file, `driver` carries out its commands, `invariants` judges each step.

`runner` puts them together. Nothing here is a stub of the core: the objects are those that run in the enclave, with other settings.
"""
