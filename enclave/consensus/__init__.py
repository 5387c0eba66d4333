"""Raft as CCF changed it: sans-IO, deterministic. Start reading at `core`; the rules in words are `docs/consensus.md`."""
