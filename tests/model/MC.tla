--------------------------------- MODULE MC ---------------------------------
(* What TLC needs to know beyond the protocol. The sizes are in the .cfg files; `scripts/model` runs them. *)
EXTENDS Consensus, TLC

CONSTANTS n1, n2, n3, n4, n5

(* Nodes that may be exchanged for one another: those that neither begin as primary nor are named apart by a target. *)
Twins == Permutations({n2, n3})
TwoPairs == Permutations({n2, n3}) \cup Permutations({n4, n5})
=============================================================================
