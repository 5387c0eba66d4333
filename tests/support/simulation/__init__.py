"""A whole service in one process under every fault we know of, judged after every event. `docs/testing.md` says how to use it.

A run is a list of events, and an event is applied to a world without any choice left in it: so a run can be replayed from its list, and a
failing list made shorter. The list is made by a driver (`driver`, `recipes`), which draws from one seed, within a plan (`plan`) that was
drawn from the same seed and says which faults this run has and how hard.

Three worlds, by what a node is made of:

    core        consensus alone, over entries that say what they do: the most events a second, and schedules that the service never makes
    replica     `enclave.serving`: consensus, execution, state, history, answers, storage replies; wires and clients are lists
    complete    `enclave.core`: whole enclaves, as hosts run them, with joins, channels, sessions

What must hold stands in `invariants` (after every event) and in `ending` (at the end; what clients saw, by `support.histories`).
`support.consensus_bugs` and `bugs_service` are planted on purpose, and must be found.
"""
