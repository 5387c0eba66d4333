// How long proposals stand, and when they are rejected: the members' own policy, and what follows from it for a proposal.
//
// Everything here is read from the ledger before the transaction and from the proposal's own text, so an auditor finds the same. See
// docs/how-proposals-end.md.

const SECONDS_PER_HOUR = 3600;
const LIFETIME_HOURS_MAX = 87_600; // ten years
const SECONDS_MAX = 9_999_999_999; // as for created_at: ten digits

define("set_proposal_policy", {
  args: { lifetime_hours: optional(whole(1, LIFETIME_HOURS_MAX)), rejection: optional(choice("never", "majority")) },
  apply({ lifetime_hours, rejection }, proposalId) {
    writeJson(PROPOSAL_POLICY, undefined, {
      lifetime_hours: lifetime_hours ?? undefined,
      rejection: rejection ?? undefined,
    });
    dropOthers(proposalId);
  },
});

const proposalPolicy = () => readJson(PROPOSAL_POLICY) ?? {};

// When the proposer signed, as far as the window of recent requests still tells. What has left it is older than all that is in it: so the
// oldest there bounds it, and a crowd of later proposals can make an old one seem younger, but never end it.
function signedAt(proposalId) {
  let oldest;
  for (const [key, value] of rowsOf(RECENT_PROPOSALS)) {
    const [seconds] = key.split(":");
    oldest ??= Number(seconds); // rows are sorted, and the times have ten digits
    if (ccf.bufToJsonCompatible(value) === proposalId) return Number(seconds);
  }
  return oldest;
}

// The time from which on a proposal can no longer be accepted, in seconds since 1970: what its proposer has stated (expires_at) or the
// policy's lifetime has run out, whichever is first. Infinity if there is neither.
function deadlineOf(proposal, proposalId) {
  const stated = statedBy(proposal);
  const { lifetime_hours } = proposalPolicy();
  const begin = lifetime_hours === undefined ? undefined : signedAt(proposalId);
  return begin === undefined ? stated : Math.min(stated, begin + lifetime_hours * SECONDS_PER_HOUR);
}

// What stands in the tables may have been let in by another constitution, which did not look at it.
function statedBy(proposal) {
  try {
    const { expires_at } = JSON.parse(proposal); // throws for undefined, too: a record without its text
    return Number.isSafeInteger(expires_at) ? expires_at : Infinity;
  } catch {
    return Infinity;
  }
}

function isExpired(proposal, proposalId) {
  const now = signedTime();
  return now !== undefined && now >= deadlineOf(proposal, proposalId);
}

// Others that have run out unnoticed: nobody votes on them, so nothing else would ever end them.
const dropExpired = (proposalId) =>
  dropOthers(proposalId, (otherId) => isExpired(readText(PROPOSALS, otherId), otherId));
