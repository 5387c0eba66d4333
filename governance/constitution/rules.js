// The third function that the service calls: what the ballots so far mean for a proposal; when it is made, and at each ballot.
//
// Accepted by more than half of the active members, as in CCF. What else ends a proposal is for the members to set: set_proposal_policy.

export function resolve(proposal, proposerId, votes, proposalId) {
  if (isExpired(proposal, proposalId)) return "Rejected";
  const active = activeMembers();
  const counted = votes.filter(({ member_id }) => active.has(member_id)); // whoever was removed since does not count
  const yes = counted.filter(({ vote }) => vote).length;
  const half = active.size / 2;
  if (yes > half) return "Accepted";
  if (proposalPolicy().rejection === "majority" && counted.length - yes > half) return "Rejected";
  return "Open";
}
