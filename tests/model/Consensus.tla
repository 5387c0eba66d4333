------------------------------ MODULE Consensus ------------------------------
(* How the nodes of a service agree on one ledger: the rules of docs/consensus.md, one action for each thing that can happen to a node.
   docs/model.md says which name of the code is which name here, and what is left out.

   The network is what has been said. A message is not an object on its way: `said` holds what nodes have said, and whoever hears it may do
   so late, often, in any order or never. That is loss, delay, repetition and reordering at once. What a node says follows from what it is
   (a primary says its log, a backup acknowledges what its disk shares with it), so most of `said` is computed from `node`; of old views it
   keeps only what somebody could still take notice of.

   Time does not exist: every timer may fire at any moment, so a node stands, or a primary steps down (CheckQuorum), whenever it likes. *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    Server,    \* all nodes that there ever are
    None,      \* nobody
    First,     \* the first primary
    Genesis,   \* the nodes of the first configuration
    Targets,   \* the sets of nodes that a reconfiguration may choose
    FirstView,
    LastView,  \* bounds from here on: nobody stands for a later view,
    Datas,     \* a log holds so many entries that are neither of the other kinds,
    Signs,     \* a primary signs so often beyond the signature with which it begins,
    Reconfigs, \* a log holds so many configurations after the first,
    Gones,     \* and so many records of removals.
    PreVote,   \* ask before standing
    KeepBack,  \* entries that no signature covers are neither stored nor sent (ADR 8)
    DiskLag,   \* the disk is behind memory; otherwise it has at once whatever may be stored
    Hashes,    \* acknowledgements carry a digest, which is compared
    Restores,  \* so many times a host sets a node's memory back
    Bug        \* "none", or which rule is broken on purpose

VARIABLES
    node,      \* what each node has in its memory, and how much of its log on its disk
    said,      \* what has been said and may yet be heard
    final,     \* the longest log that anybody has ever committed; no node reads it
    host       \* what hostile hosts keep

vars == <<node, said, final, host>>

---------------------------------------------------------------------------
(* Logs *)

(* A digest in the model is the log itself. `tag` tells entries of one name apart that a node wrote before and after its memory was set
   back; an honest node's are all 0. *)
Entry(view, kind, nodes, tag) == [view |-> view, kind |-> kind, nodes |-> nodes, tag |-> tag]

(* For a condition with an "or" in it, which TLC would otherwise take for a choice, going each way once. *)
Holds(condition) == condition = TRUE

Min(a, b) == IF a < b THEN a ELSE b
Max(a, b) == IF a > b THEN a ELSE b

ViewAt(log, i) == IF i = 0 THEN 0 ELSE log[i].view
Upto(log, i) == SubSeq(log, 1, i)
IsPrefix(a, b) == Len(a) <= Len(b) /\ a = Upto(b, Len(a))
Count(log, kind) == Cardinality({i \in 1..Len(log) : log[i].kind = kind})

RECURSIVE SignatureAtOrBelow(_, _)
SignatureAtOrBelow(log, i) == IF i = 0 \/ log[i].kind = "sign" THEN i ELSE SignatureAtOrBelow(log, i - 1)
LastSignature(log) == SignatureAtOrBelow(log, Len(log))
SignatureId(log) == LET i == LastSignature(log) IN <<ViewAt(log, i), i>>
NotOlder(a, b) == a[1] > b[1] \/ (a[1] = b[1] /\ a[2] >= b[2])

---------------------------------------------------------------------------
(* Membership: everything follows from the log and from how far it is committed. *)

ConfigurationsOf(log) == {i \in 1..Len(log) : log[i].kind = "nodes"}
(* The last one that is committed, and all after it. *)
Active(log, commit) == LET all == ConfigurationsOf(log) IN {i \in all : \A j \in all : j <= i \/ j > commit}
Newest(log) == LET all == ConfigurationsOf(log) IN IF all = {} THEN {} ELSE log[CHOOSE i \in all : \A j \in all : j <= i].nodes
Mentioned(log) == UNION {log[i].nodes : i \in ConfigurationsOf(log)}
Recorded(log, commit) == UNION {log[i].nodes : i \in {j \in 1..Min(commit, Len(log)) : log[j].kind = "gone"}}
Members(s) == UNION {s.log[i].nodes : i \in Active(s.log, s.commit)}

Majority(some, of) == 2 * Cardinality(some \cap of) > Cardinality(of)
(* A majority of every one of these configurations. *)
Quorums(log, which, some) ==
    /\ which # {}
    /\ CASE Bug = "union" -> Majority(some, UNION {log[i].nodes : i \in which})
         [] Bug = "newest" -> Majority(some, Newest(log))
         [] OTHER -> \A i \in which : Majority(some, log[i].nodes)

(* Where the first configuration without a former member stands, and the first signature over it; 0 for none. *)
RemovedAt(log, n) ==
    LET all == ConfigurationsOf(log)
        without == {i \in all : n \notin log[i].nodes /\ \E j \in all : j < i /\ n \in log[j].nodes}
    IN IF without = {} THEN 0 ELSE CHOOSE i \in without : \A j \in without : i <= j
SignedOver(log, i) ==
    LET over == {j \in i..Len(log) : log[j].kind = "sign"} IN IF over = {} THEN 0 ELSE CHOOSE j \in over : \A k \in over : j <= k

Phase(log, commit, n) ==
    LET removed == RemovedAt(log, n)
        signed == SignedOver(log, removed)
    IN CASE removed = 0 -> "none"
         [] removed > 0 /\ signed = 0 -> "ordered"
         [] removed > 0 /\ signed > commit -> "signed"
         [] n \in Recorded(log, commit) -> "retired_committed"
         [] OTHER -> "completed"

(* Out of every active configuration, and not yet recorded as gone: still fed, still voting. *)
Leaving(s) ==
    LET active == Active(s.log, s.commit)
    IN {n \in Mentioned(s.log) : Phase(s.log, s.commit, n) = "completed" /\ \A i \in active : n \notin s.log[i].nodes}

(* Members by what is signed (whoever wins discards the rest), and those whose removal is final, until that is on record. *)
Electable(s, n) ==
    \/ \E i \in Active(s.log, s.commit) : (i <= LastSignature(s.log) \/ Bug = "unsigned member") /\ n \in s.log[i].nodes
    \/ Bug # "removed never stand" /\ Phase(s.log, s.commit, n) \in (IF Bug = "ordered stand" THEN {"ordered", "completed"} ELSE {"completed"})

---------------------------------------------------------------------------
(* What is said. *)

(* How far the disk goes where it does not lag. *)
Storable(log) == IF KeepBack THEN LastSignature(log) ELSE Len(log)
Stored(s) == IF DiskLag THEN s.stored ELSE Storable(s.log)
Sendable(log) == IF KeepBack THEN LastSignature(log) ELSE Len(log)

Acknowledged(s) ==
    CASE Bug = "whole log" -> Stored(s)
      [] Bug = "memory" -> s.matched
      [] OTHER -> Min(s.matched, Stored(s))

Follows(s) == s.role = "backup" /\ s.primary # None

(* Forget nothing that could make a difference, and everything else, or the same situation would be counted many times. *)
Keep == host.restores < Restores
LedIn(new) ==
    LET now == {[view |-> new[n].view, by |-> n, log |-> new[n].log, commit |-> new[n].commit, heard |-> new[n].heard]
                : n \in {m \in Server : new[m].role = "primary"}}
        old == {r \in said.led : /\ Keep \/ \E n \in Server \ {r.by} : new[n].view <= r.view
                                 /\ \A q \in now : ~(q.view = r.view /\ q.by = r.by /\ q.commit >= r.commit /\ IsPrefix(r.log, q.log))}
    IN now \cup old

Acks(new) ==
    LET fresh == {[view |-> new[n].view, by |-> n, upto |-> Acknowledged(new[n]),
                   digest |-> IF Hashes THEN Upto(new[n].log, Acknowledged(new[n])) ELSE <<>>] : n \in {m \in Server : Follows(new[m])}}
        all == fresh \cup said.acks
        Counts(a) == Keep \/ \E n \in Server : new[n].role = "primary" /\ new[n].view = a.view /\ new[n].commit < a.upto
        SaysLess(a, b) == a.view = b.view /\ a.by = b.by /\ a.upto < b.upto /\ IsPrefix(a.digest, b.digest)
    IN {a \in all : Counts(a) /\ \A b \in all : ~SaysLess(a, b)}

Asked(new, more) ==
    LET May(n, r) == new[n].view < r.view \/ (new[n].view = r.view /\ (r.pre \/ new[n].voted \in {None, r.by}))
    IN {r \in said.asked \cup more : Keep \/ ((\E n \in r.to : May(n, r)) /\ (r.pre => new[r.by].view = r.view))}

Votes(new, more) ==
    {g \in said.votes \cup more : Keep \/ (new[g.to].view = g.view /\ (g.pre \/ new[g.to].role = "candidate"))}

Proposed(new, more) ==
    {p \in said.proposed \cup more : Keep \/ (new[p.to].view = p.view /\ new[p.to].primary = p.by)}

(* Every action ends with this: node n is now s, and has asked, voted, proposed. *)
Become(n, s, asked, votes, proposed) ==
    LET new == [node EXCEPT ![n] = s]
    IN /\ node' = new
       /\ said' = [led |-> LedIn(new), acks |-> Acks(new), asked |-> Asked(new, asked), votes |-> Votes(new, votes),
                   proposed |-> Proposed(new, proposed)]
       /\ final' = IF s.commit > Len(final) THEN Upto(s.log, s.commit) ELSE final
       /\ UNCHANGED host

(* The same, where only its state matters; a step that changes nothing is none. *)
Is(n, s) == s # node[n] /\ Become(n, s, {}, {}, {})

---------------------------------------------------------------------------
(* The beginning: a service whose first nodes have genesis and a signature over it. *)

(* With hashes a primary remembers what each peer has acknowledged last, and whether the peer still counts. *)
NothingHeard == IF Hashes THEN [n \in Server |-> [digest |-> <<>>, counts |-> TRUE]] ELSE <<>>

GenesisLog == <<Entry(FirstView, "nodes", Genesis, 0), Entry(FirstView, "sign", {}, 0)>>
Fresh == [view |-> 0, role |-> "backup", primary |-> None, voted |-> None, log |-> <<>>, commit |-> 0, matched |-> 0, stored |-> 0,
          proven |-> 0, heard |-> <<>>, echo |-> <<>>, stopped |-> FALSE]
Begun(n) == [view |-> FirstView, role |-> IF n = First THEN "primary" ELSE "backup", primary |-> First,
             voted |-> IF n = First THEN First ELSE None, log |-> GenesisLog, commit |-> 2, matched |-> IF n = First THEN 0 ELSE 2,
             stored |-> IF DiskLag THEN 2 ELSE 0,
             proven |-> IF Hashes /\ n # First THEN 2 ELSE 0, heard |-> IF n = First THEN NothingHeard ELSE <<>>, echo |-> <<>>, stopped |-> FALSE]

Init ==
    /\ node = [n \in Server |-> IF n \in Genesis THEN Begun(n) ELSE Fresh]
    /\ said = [led |-> {[view |-> FirstView, by |-> First, log |-> GenesisLog, commit |-> 2, heard |-> NothingHeard]}, acks |-> {}, asked |-> {}, votes |-> {},
               proposed |-> {}]
    /\ final = GenesisLog
    /\ host = [kept |-> [n \in Server |-> <<>>], restores |-> 0]

---------------------------------------------------------------------------
(* A primary makes entries. *)

Leads(n) == node[n].role = "primary" /\ ~node[n].stopped
Add(n, kind, nodes) == Is(n, [node[n] EXCEPT !.log = Append(@, Entry(node[n].view, kind, nodes, host.restores))])

ClientRequest(n) == Leads(n) /\ Count(node[n].log, "data") < Datas /\ Add(n, "data", {})

SignaturesOfView(s) == Cardinality({i \in 1..Len(s.log) : s.log[i].kind = "sign" /\ s.log[i].view = s.view})
Sign(n) == Leads(n) /\ SignaturesOfView(node[n]) < 1 + Signs /\ Add(n, "sign", {})

(* A name that was removed is never used again: what starts anew has a new key. *)
Reconfigure(n) ==
    /\ Leads(n) /\ Count(node[n].log, "nodes") < 1 + Reconfigs
    /\ \E nodes \in Targets :
           /\ nodes # Newest(node[n].log)
           /\ (nodes \ Newest(node[n].log)) \cap Mentioned(node[n].log) = {}
           /\ Add(n, "nodes", nodes)

(* That the removal of some is final goes on record. *)
Record(n) ==
    /\ Leads(n) /\ Count(node[n].log, "gone") < Gones
    /\ LET done == Leaving(node[n]) \ Recorded(node[n].log, Len(node[n].log)) IN done # {} /\ Add(n, "gone", done)

---------------------------------------------------------------------------
(* Commit *)

Following(s, view, primary) ==
    [s EXCEPT !.view = view, !.role = "backup", !.primary = primary, !.voted = IF view > s.view THEN None ELSE @,
              !.matched = IF primary = None THEN 0 ELSE s.commit, !.heard = <<>>, !.echo = <<>>,
              !.proven = IF Hashes /\ primary # None THEN s.commit ELSE 0]

Stops(s) == [s EXCEPT !.stopped = TRUE]

(* Who has on disk what a primary has, up to i. *)
HasAcknowledged(n, i) ==
    LET s == node[n]
        mine == IF Bug = "own memory" THEN Len(s.log) ELSE Stored(s)
    IN (IF Hashes THEN {m \in Server : s.heard[m].counts /\ Len(s.heard[m].digest) >= i}
        ELSE {a.by : a \in {b \in said.acks : b.view = s.view /\ b.upto >= i}})
       \cup (IF mine >= i THEN {n} ELSE {})

(* With hashes each acknowledgement is looked at; without, they are just there. *)
HearAck(n, a) ==
    LET s == node[n]
        known == s.heard[a.by]
    IN /\ Hashes /\ s.role = "primary" /\ ~s.stopped /\ a.view = s.view /\ a.by # n /\ known.counts
       /\ Is(n, IF a.upto > Len(s.log) THEN Stops(s)
                ELSE IF a.digest # Upto(s.log, a.upto) /\ Bug # "hash" THEN [s EXCEPT !.heard[a.by].counts = FALSE]
                ELSE IF a.upto > Len(known.digest) THEN [s EXCEPT !.heard[a.by].digest = a.digest] ELSE s)

Committed(n, i) ==
    LET s == node[n]
        to == [s EXCEPT !.commit = i]
    IN IF Phase(s.log, i, n) # "retired_committed" THEN Is(n, to)
       ELSE \* Its own removal is on record: it asks another to stand, and is nothing until it hears of a later view.
            \E m \in IF Newest(s.log) \subseteq {n} THEN {None} ELSE Newest(s.log) \ {n} :
                Become(n, [Following(to, s.view, None) EXCEPT !.role = "none"], {}, {},
                       IF m = None THEN {} ELSE {[view |-> s.view, by |-> n, to |-> m]})

Commit(n) ==
    LET s == node[n]
    IN /\ Leads(n)
       /\ \E i \in (s.commit + 1)..Len(s.log) :
              /\ Holds(s.log[i].kind = "sign" \/ Bug = "unsigned")
              /\ Holds(s.log[i].view = s.view \/ Bug = "earlier view")
              /\ Quorums(s.log, {j \in Active(s.log, s.commit) : j <= i}, HasAcknowledged(n, i))
              /\ Committed(n, i)

---------------------------------------------------------------------------
(* A backup hears the primary of a view. *)

(* What message (prev, last, commit) of the primary that has said r makes of node s. With hashes, `echo` is what that primary remembers of it,
   and `given` whether there is a digest of the primary's log up to prev. *)
Heard(s, r, prev, last, commit, echo, given) ==
    LET follower == IF r.view > s.view \/ s.primary = None THEN Following(s, r.view, r.by) ELSE s
        log == follower.log
        has == prev <= Len(log) /\ ViewAt(log, prev) = ViewAt(r.log, prev)
        differ == {i \in (prev + 1)..Min(last, Len(log)) : log[i].view # r.log[i].view}
        \* The first entry in the way, or the first that is missing.
        from == IF differ # {} THEN CHOOSE i \in differ : \A j \in differ : i <= j ELSE Len(log) + 1
        fixed == Max(follower.matched, follower.commit)
        new == IF from <= last THEN Upto(log, from - 1) \o SubSeq(r.log, from, last)
               ELSE IF Bug = "truncate early" /\ last >= follower.commit THEN Upto(log, last)
               ELSE log
        matched == Max(follower.matched, last)
        compared == Hashes /\ given /\ prev > follower.proven
        \* Entries of one name may differ if somebody's memory was set back; a signature entry holds a digest of all before it.
        unequal == compared /\ Upto(log, prev) # Upto(r.log, prev)
        twofold == Hashes /\ Bug # "names" /\ \E i \in (prev + 1)..Min(last, from - 1) : log[i] # r.log[i]
        forged == Hashes /\ \E i \in from..last : r.log[i].kind = "sign" /\ Upto(new, i - 1) # Upto(r.log, i - 1)
        start == IF compared THEN prev ELSE follower.proven
        proven == CASE ~Hashes -> 0
                    [] Hashes /\ \E i \in from..last : r.log[i].kind = "sign" -> Len(new)
                    [] OTHER -> IF prev <= start THEN Max(start, last) ELSE start
        limit == IF Hashes THEN proven ELSE IF Bug = "own suffix" THEN Len(new) ELSE matched
    IN IF r.view = s.view /\ (s.role \in {"primary", "none"} \/ s.primary \notin {None, r.by}) THEN Stops(s)
       ELSE IF ~IsPrefix(echo, log) /\ Bug # "echo" THEN Stops(follower)
       ELSE IF ~has THEN IF prev <= follower.commit THEN Stops(follower) ELSE follower
       ELSE IF unequal \/ (differ # {} /\ from <= fixed) \/ twofold \/ (from <= last /\ forged) THEN Stops(follower)
       ELSE [follower EXCEPT !.log = new, !.matched = matched, !.proven = proven,
                             !.commit = Max(@, SignatureAtOrBelow(new, Min(commit, limit))),
                             !.echo = IF Len(echo) > Len(@) THEN echo ELSE @,
                             !.stored = IF DiskLag THEN Min(@, IF from <= last THEN from - 1 ELSE Len(new)) ELSE 0]

(* Last entry of the view that entry i is of. *)
RECURSIVE ViewEnd(_, _)
ViewEnd(log, i) == IF i >= Len(log) \/ log[i + 1].view # log[i].view THEN i ELSE ViewEnd(log, i + 1)
RECURSIVE ViewStart(_, _)
ViewStart(log, i) == IF i <= 1 \/ log[i - 1].view # log[i].view THEN i ELSE ViewStart(log, i - 1)

(* An entry that records a removal was made when that removal was final, and no message that carries it says less. *)
CommittedBefore(log, last) ==
    LET records == IF Gones = 0 THEN {} ELSE {i \in 1..last : log[i].kind = "gone"}
        by == {SignedOver(log, RemovedAt(log, n)) : n \in UNION {log[i].nodes : i \in records}}
    IN IF by = {} THEN 0 ELSE CHOOSE i \in by : \A j \in by : j <= i

IsMessage(r, prev, last, commit) ==
    /\ prev <= last /\ last <= Len(r.log) /\ commit <= r.commit
    /\ prev < last => r.log[prev + 1].view = r.log[last].view

Receive(n, r, prev, last, commit) ==
    /\ ~node[n].stopped /\ n # r.by /\ r.view >= node[n].view
    /\ IsMessage(r, prev, last, commit)
    /\ Is(n, Heard(node[n], r, prev, last, commit, <<>>, FALSE))

(* Of all messages up to `last`, those with the same outcome are one: where the logs meet, it does not matter where the message begins, and
   what is known to be shared does not change. *)
Beginnings(log, r, last) ==
    LET all == (IF last = 0 THEN 0 ELSE ViewStart(r.log, last) - 1)..last
        known == {i \in all : i <= Len(log) /\ ViewAt(log, i) = ViewAt(r.log, i)}
    IN IF Hashes THEN all ELSE IF known = {} THEN {} ELSE {CHOOSE i \in known : \A j \in known : j <= i}

HearPrimary(n, r) ==
    LET s == node[n]
        known == IF s.view = r.view THEN s.matched ELSE 0
        \* Who was told of more by an earlier primary than this one knows of is told nothing new.
        commits == {s.commit} \cup {i \in (s.commit + 1)..r.commit : r.log[i].kind = "sign"}
        Outcomes(last) == {Heard(s, r, prev, last, commit, echo, given) : prev \in Beginnings(s.log, r, last),
                                                                   commit \in {i \in commits : i >= CommittedBefore(r.log, last)},
                                                                   echo \in IF Hashes THEN {<<>>, r.heard[n].digest} ELSE {<<>>},
                                                                   given \in IF Hashes THEN BOOLEAN ELSE {FALSE}}
    IN /\ n # r.by /\ r.view >= s.view /\ ~s.stopped
       /\ Holds(Hashes \/ known < Len(r.log) \/ s.commit < r.commit \/ s.primary # r.by)
       /\ n \in Mentioned(r.log)
       /\ \E to \in UNION {Outcomes(last) : last \in known..Sendable(r.log)} : Is(n, to)

(* A message for which this node lacks what comes before: it follows, and refuses. *)
HearAndRefuse(n, r) ==
    /\ n \in Mentioned(r.log) /\ n # r.by /\ ~node[n].stopped
    /\ Holds(r.view > node[n].view \/ (r.view = node[n].view /\ node[n].primary = None /\ node[n].role # "none"))
    /\ Is(n, Following(node[n], r.view, r.by))

(* The disk gets further. *)
Store(n) ==
    /\ DiskLag /\ ~node[n].stopped
    /\ \E i \in (node[n].stored + 1)..Storable(node[n].log) : Is(n, [node[n] EXCEPT !.stored = i])

---------------------------------------------------------------------------
(* Elections *)

(* With hashes a vote is for a log, not only for a node. *)
Signed(s) == IF Hashes /\ Bug # "vote for anything" THEN Upto(s.log, LastSignature(s.log)) ELSE <<>>

Request(s, n, pre) == [view |-> s.view, by |-> n, last |-> SignatureId(s.log), pre |-> pre, over |-> Signed(s), to |-> Members(s) \ {n}]

(* The timer fires: ask whether standing would succeed. *)
Silence(n) ==
    LET s == node[n]
        to == [s EXCEPT !.role = "pre_vote_candidate", !.primary = None, !.matched = 0, !.proven = 0, !.echo = <<>>]
    IN /\ PreVote
       /\ s.role \in {"backup", "candidate"} /\ ~s.stopped /\ s.view < LastView /\ Electable(s, n)
       /\ Become(n, to, {Request(to, n, TRUE)}, {}, {})

Granted(n, pre) == {n} \cup {g.by : g \in {h \in said.votes : h.to = n /\ h.view = node[n].view /\ h.pre = pre /\ h.over = Signed(node[n])}}

Standing(n, s) == [s EXCEPT !.view = @ + 1, !.role = "candidate", !.primary = None, !.voted = n, !.matched = 0, !.proven = 0, !.echo = <<>>]
Stands(n) == LET to == Standing(n, node[n]) IN Become(n, to, {Request(to, n, FALSE)}, {}, {})

Stand(n) ==
    LET s == node[n]
    IN /\ ~s.stopped /\ s.view < LastView
       /\ IF PreVote THEN s.role = "pre_vote_candidate" ELSE s.role \in {"backup", "candidate"} /\ Electable(s, n)
       /\ PreVote => Quorums(s.log, Active(s.log, s.commit), Granted(n, TRUE))
       /\ Stands(n)

(* The primary that leaves has asked for it: no PreVote. *)
StandAsProposed(n) ==
    LET s == node[n]
    IN /\ s.role = "backup" /\ ~s.stopped /\ s.view < LastView /\ Electable(s, n)
       /\ \E p \in said.proposed : p.to = n /\ p.view = s.view /\ p.by = s.primary
       /\ Stands(n)

(* Somebody asks, and gets a vote; who learns of a later view that way is its backup first. *)
Vote(n, r) ==
    LET s == IF r.view > node[n].view THEN Following(node[n], r.view, None) ELSE node[n]
        enough == Holds(NotOlder(r.last, SignatureId(s.log)) \/ Bug = "vote")
        granted == {[view |-> r.view, by |-> n, to |-> r.by, pre |-> r.pre, over |-> r.over]}
    IN /\ n \in r.to /\ ~node[n].stopped /\ r.view = s.view /\ enough /\ ~(granted \subseteq said.votes)
       /\ IF r.pre THEN s.role # "primary" /\ Become(n, s, {}, granted, {}) \* who hears its primary may refuse, and who does is not asked
          ELSE /\ s.primary = None
               /\ Holds(s.voted \in {None, r.by} \/ Bug = "two votes")
               /\ Become(n, [s EXCEPT !.voted = r.by], {}, granted, {})

(* Whatever is not signed is discarded; the view begins with a signature. *)
Win(n) ==
    LET s == node[n]
        kept == IF Bug = "keep unsigned" THEN Len(s.log) ELSE LastSignature(s.log)
    IN /\ s.role = "candidate" /\ ~s.stopped
       /\ Quorums(s.log, Active(s.log, s.commit), Granted(n, FALSE))
       /\ Is(n, [s EXCEPT !.role = "primary", !.primary = n, !.matched = 0, !.stored = Min(@, kept), !.heard = NothingHeard,
                          !.log = Append(Upto(@, kept), Entry(s.view, "sign", {}, host.restores))])

(* CheckQuorum, or a disk that gets no further. *)
StepDown(n) ==
    /\ node[n].role = "primary" /\ ~node[n].stopped
    /\ Is(n, Following(node[n], node[n].view, None))

(* Any message of a later view that changes nothing else. *)
HearOfView(n, view) ==
    /\ ~node[n].stopped
    /\ \E m \in Server : node[m].view >= view
    /\ view > node[n].view
    /\ Is(n, Following(node[n], view, None))

---------------------------------------------------------------------------
(* A host that copies a node's memory and puts the copy back later. What was said in between stays said. *)

Copy(n) ==
    /\ host.restores < Restores /\ host.kept[n] = <<>>
    /\ host' = [host EXCEPT !.kept[n] = <<node[n]>>]
    /\ UNCHANGED <<node, said, final>>

Restore(n) ==
    /\ host.restores < Restores /\ host.kept[n] # <<>> /\ host.kept[n] # <<node[n]>>
    /\ UNCHANGED final
    /\ host' = [kept |-> [m \in Server |-> <<>>], restores |-> host.restores + 1]
    /\ LET new == [node EXCEPT ![n] = host.kept[n][1]]
       IN /\ node' = new
          /\ said' = [said EXCEPT !.led = LedIn(new), !.acks = Acks(new)]

---------------------------------------------------------------------------

Step(n) ==
    \/ ClientRequest(n)
    \/ Sign(n)
    \/ Reconfigure(n)
    \/ Record(n)
    \/ Commit(n)
    \/ \E a \in said.acks : HearAck(n, a)
    \/ \E r \in said.led : HearPrimary(n, r) \/ HearAndRefuse(n, r)
    \/ Store(n)
    \/ Silence(n)
    \/ Stand(n)
    \/ StandAsProposed(n)
    \/ \E r \in said.asked : Vote(n, r)
    \/ Win(n)
    \/ StepDown(n)
    \/ \E view \in FirstView..LastView : HearOfView(n, view)
    \/ Copy(n)
    \/ Restore(n)

Next == \E n \in Server : Step(n)

Spec == Init /\ [][Next]_vars

---------------------------------------------------------------------------
(* What must hold in every state. *)

Final(n) == Upto(node[n].log, node[n].commit)

ElectionSafety == \A r, q \in said.led : r.view = q.view => r.by = q.by

LogMatching ==
    \A n, m \in Server : \A i \in 1..Min(Len(node[n].log), Len(node[m].log)) :
        node[n].log[i].view = node[m].log[i].view => Upto(node[n].log, i) = Upto(node[m].log, i)

CommitSafety == \A n \in Server : IsPrefix(Final(n), final)

(* What was committed in a view is in the log of every primary of that and every later view. *)
LeaderCompleteness ==
    \A p \in Server : node[p].role = "primary" /\ final[Len(final)].view <= node[p].view => IsPrefix(final, node[p].log)

SignatureInv == \A n \in Server : node[n].commit = 0 \/ node[n].log[node[n].commit].kind = "sign"

(* What is final is on the disks of a majority of the configuration that it ends in. *)
Durable == Majority({n \in Server : Stored(node[n]) >= Len(final) /\ IsPrefix(final, node[n].log)}, Newest(final))

MonoLog == \A n \in Server : \A i \in 2..Len(node[n].log) : node[n].log[i - 1].view <= node[n].log[i].view

(* An entry of another view stands only after a signature. *)
ViewsBeginAfterSignatures ==
    \A n \in Server : \A i \in 2..Len(node[n].log) :
        node[n].log[i - 1].view # node[n].log[i].view => node[n].log[i - 1].kind = "sign" /\ node[n].log[i].kind = "sign"

NoUnsignedOnDisk == KeepBack => \A n \in Server : Stored(node[n]) <= LastSignature(node[n].log)

(* Nobody acknowledges what is not its primary's. *)
AcksAreTrue ==
    \A a \in said.acks : \A p \in Server :
        node[p].role = "primary" /\ node[p].view = a.view =>
            a.upto <= Len(node[p].log) /\ (node[a.by].view = a.view /\ Follows(node[a.by]) => IsPrefix(Upto(node[a.by].log, a.upto), node[p].log))

(* Between honest enclaves nothing happens that makes a node stop itself. *)
NobodyStops == \A n \in Server : ~node[n].stopped

(* Nobody leads a service that its own log does not say it is of: others could not verify what it signs. *)
LeadersAreKnown == \A p \in Server : node[p].role = "primary" => p \in Mentioned(node[p].log)

(* A recorded removal was final before. *)
RetiredCommitted ==
    \A n, m \in Server : Phase(node[n].log, node[n].commit, m) = "retired_committed" =>
        \A i \in Active(node[n].log, node[n].commit) : m \notin node[n].log[i].nodes

(* Whoever is on record as gone may be switched off: somebody among the others can still win. *)
Gone(n) ==
    \E m \in Server : Phase(node[m].log, node[m].commit, n) \in (IF Bug = "early" THEN {"completed", "retired_committed"} ELSE {"retired_committed"})
SomebodyCanLead ==
    LET left == {n \in Server : ~Gone(n)}
    IN \E n \in left :
           LET voters == {m \in left : NotOlder(SignatureId(node[n].log), SignatureId(node[m].log))}
           IN Electable(node[n], n) /\ Quorums(node[n].log, Active(node[n].log, node[n].commit), voters)

(* A node that has heard what its primary remembers of it has not forgotten that. *)
NobodyForgets == \A n \in Server : node[n].stopped \/ IsPrefix(node[n].echo, node[n].log)

(* What must hold of every step. *)

(* To whoever sees only what is final, all of this is a ledger that grows. *)
Abstract == INSTANCE Ledger WITH final <- final
IsALedger == Abstract!Spec
AppendOnly == [][\A n \in Server : IsPrefix(Final(n), Final(n)')]_vars
MonotonicView == [][\A n \in Server : node'[n].view >= node[n].view]_vars
NeverCommitEarlierViews ==
    [][\A n \in Server : node[n].role = "primary" /\ node'[n].view = node[n].view /\ node'[n].commit # node[n].commit =>
                            ViewAt(node'[n].log, node'[n].commit) = node[n].view]_vars
RoleChanges ==
    [][\A n \in Server :
        LET from == node[n].role
            to == node'[n].role
        IN \/ from = to
           \/ to = "backup"
           \/ from = "primary" /\ to = "none"
           \/ from \in {"backup", "candidate"} /\ to = "pre_vote_candidate"
           \/ from \in {"pre_vote_candidate", "backup"} /\ to = "candidate"
           \/ from = "candidate" /\ to = "primary"]_vars
=============================================================================
