------------------------------- MODULE Ledger -------------------------------
(* What a service is to whoever uses it: a sequence of entries that only grows, from one signature to the next. *)
EXTENDS Naturals, Sequences

CONSTANT GenesisLog
VARIABLE final

Init == final = GenesisLog

Grow ==
    /\ Len(final') > Len(final)
    /\ SubSeq(final', 1, Len(final)) = final
    /\ final'[Len(final')].kind = "sign"

Spec == Init /\ [][Grow]_final
=============================================================================
