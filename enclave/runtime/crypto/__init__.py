"""What scripts find as `ccf.crypto`: pure functions over what a script has given, run in its own worker.

No key of the service's is ever here: keys are PEM text or bytes that the script brought. It is done in the worker since making an RSA key
takes longer than the enclave's loop may stand still, and since reading hostile bytes is what workers are for; a worker that takes
too long is killed.
Law: nothing is drawn at random for a decision, which must come out the same each time (`functions`).
Not here: how a call comes and its result goes (`enclave.runtime.script_worker`, `prelude.js`). For authors: docs/javascript-crypto.md.
"""
