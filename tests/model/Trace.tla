-------------------------------- MODULE Trace --------------------------------
(* Whether nodes that ran went as the protocol goes: `Recorded`, which is written by support.recording for each run, has what they were at the
   beginning and what each became, step by step; every step must be one of Consensus. TLC can go no further than the steps can be explained,
   so the depth of its search says which was the first that cannot. *)
EXTENDS Consensus, Recorded

VARIABLE explained \* so many steps

(* Nobody is asked for anything, and nothing is on its way. *)
Begins ==
    LET leads == {n \in Server : Beginning[n].role = "primary"}
    IN /\ node = Beginning
       /\ said = [led |-> {[view |-> Beginning[n].view, by |-> n, log |-> Beginning[n].log, commit |-> Beginning[n].commit, heard |-> <<>>]
                           : n \in leads},
                  acks |-> {}, asked |-> {}, votes |-> {}, proposed |-> {}]
       /\ final = LET s == Beginning[CHOOSE n \in leads : TRUE] IN Upto(s.log, s.commit)
       /\ host = [kept |-> [n \in Server |-> <<>>], restores |-> 0]
       /\ explained = 0

(* What the node of a step is after it: recorded is how much of its log it has kept, and what it has added. *)
After(step) ==
    [view |-> step.view, role |-> step.role, primary |-> step.primary, voted |-> step.voted,
     log |-> Upto(node[step.node].log, step.keep) \o step.add, commit |-> step.commit, matched |-> step.matched, stored |-> step.stored,
     proven |-> 0, heard |-> <<>>, echo |-> <<>>, stopped |-> step.stopped]

(* It would vote for whoever asked, which changes nothing about itself. A question or a vote that could make no difference any more is not
   in `said`. *)
WouldVote(step) ==
    LET questions == {r \in said.asked : r.by = step.for /\ r.pre /\ r.view = step.view /\ step.node \in r.to}
        known == \E g \in said.votes : g.by = step.node /\ g.to = step.for /\ g.pre /\ g.view = step.view
    IN IF questions = {} \/ known THEN UNCHANGED <<said, final, host>>
       ELSE \E r \in questions : Vote(step.node, r)

(* The simulation may have a removal recorded twice, or one of several, or the same configuration made again; the service, which looks at
   what there is, does not. *)
MakesAsAsked(step) ==
    /\ Leads(step.node) /\ Len(step.add) = 1
    /\ LET asked == step.add[1]
       IN /\ \/ asked.kind = "gone" /\ asked.nodes \subseteq Leaving(node[step.node])
             \/ asked.kind = "nodes" /\ asked.nodes = Newest(node[step.node].log)
          /\ Add(step.node, asked.kind, asked.nodes)

(* The last vote and word of a later view may be worked through at once. Then a node has led, and given up what is not signed, without ever
   signing: a view without an entry, which Consensus does not have. *)
LeadsForNothing(step) ==
    LET n == step.node
        s == node[n]
        kept == LastSignature(s.log)
        leads == [s EXCEPT !.log = Upto(@, kept), !.stored = Min(@, kept)]
        new == [node EXCEPT ![n] = Following(leads, step.view, step.primary)]
    IN /\ s.role = "candidate" /\ ~s.stopped
       /\ Quorums(s.log, Active(s.log, s.commit), Granted(n, FALSE))
       /\ step.view > s.view
       /\ IF step.primary = None THEN \E m \in Server : node[m].view >= step.view
          ELSE \E r \in said.led : r.view = step.view /\ r.by = step.primary
       /\ node' = new
       /\ said' = [led |-> LedIn(new) \cup {[view |-> s.view, by |-> n, log |-> leads.log, commit |-> s.commit, heard |-> <<>>]},
                   acks |-> Acks(new), asked |-> Asked(new, {}), votes |-> Votes(new, {}), proposed |-> Proposed(new, {})]
       /\ UNCHANGED <<final, host>>

Explained ==
    /\ explained < Len(Steps)
    /\ explained' = explained + 1
    /\ LET step == Steps[explained + 1]
       IN /\ node' = [node EXCEPT ![step.node] = After(step)]
          /\ IF step.for # None THEN WouldVote(step) ELSE Step(step.node) \/ MakesAsAsked(step) \/ LeadsForNothing(step)

TraceSpec == Begins /\ [][Explained]_<<vars, explained>>
=============================================================================
