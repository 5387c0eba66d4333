// Two of the three functions that the service calls: whether a proposal is well-formed, and what it does once it is accepted.

const EXPIRES_AT = optional(whole(1, SECONDS_MAX));
const PROBLEMS_SHOWN = 50; // of a proposal of many thousand actions all are wrong: to tell each would take more memory than there is

export function validate(input) {
  const problems = problemsOfProposal(input);
  return { valid: problems.length === 0, description: problems.join("; ") };
}

function problemsOfProposal(input) {
  let proposal;
  try {
    proposal = JSON.parse(input);
  } catch (error) {
    return [`a proposal is a JSON object, this is no JSON: ${error.message}`];
  }
  if (!isObject(proposal) || !Array.isArray(proposal.actions)) {
    const given = isObject(proposal) ? `actions: ${shown(proposal.actions)}` : shown(proposal);
    return [`a proposal is a JSON object with a list of actions, got ${given}`];
  }
  const problems = problemsOfDeadline(proposal.expires_at);
  for (const [position, wanted] of proposal.actions.entries()) {
    if (problems.length >= PROBLEMS_SHOWN) return [...problems, `and perhaps more, from position ${position} on`];
    problems.push(...problemsOfAction(wanted).map((problem) => `${nameOf(wanted)} at position ${position}: ${problem}`));
  }
  return problems;
}

function problemsOfDeadline(deadline) {
  const problems = problemsOf(EXPIRES_AT, deadline, "expires_at");
  const now = signedTime();
  if (problems.length > 0 || !(now >= deadline) || deadline === null) return problems;
  return [
    `expires_at: ${deadline} (${timeText(deadline)}) has passed already; the service's last signature is of ${timeText(now)}`,
  ];
}

const nameOf = (wanted) =>
  typeof wanted?.name === "string" ? wanted.name.slice(0, SHOWN_CHARACTERS) : "an action without a name";

export function apply(proposal, proposalId) {
  dropExpired(proposalId);
  JSON.parse(proposal).actions.forEach((wanted, position) => {
    const action = actions.get(wanted.name);
    try {
      action.apply(argumentsOf(action, wanted), proposalId);
    } catch (error) {
      throw new Error(`${wanted.name} at position ${position}: ${error.message}`);
    }
  });
}
