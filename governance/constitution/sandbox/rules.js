// For development only: what one member proposes is accepted at once, and nobody votes.

export function resolve(_proposal, _proposerId, _votes) {
  return "Accepted";
}
