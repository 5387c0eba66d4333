// The list of all actions. The files after this one fill it.
//
// An action has
//   args    shapes of its arguments by name; none if it takes none
//   check   optional: what shapes cannot say. Gets arguments that fit; returns a sentence, or a list of them, where something is wrong
//   apply   does it. Gets arguments, and the id of the proposal; throws where the tables do not allow it, and then nothing of the
//           proposal is done

const actions = new Map();

function define(name, action) {
  actions.set(name, { args: {}, check: () => [], ...action });
}

// Actions of CCF's that make no sense here, and what does.
const ELSEWHERE = {
  add_node_code: "this service has no SGX nodes; use add_nitro_measurement or add_snp_measurement",
  remove_node_code: "this service has no SGX nodes; use remove_nitro_measurement or remove_snp_measurement",
  add_virtual_measurement: "simulated enclaves have measurements of Nitro's form; use add_nitro_measurement",
  remove_virtual_measurement: "simulated enclaves have measurements of Nitro's form; use remove_nitro_measurement",
  add_virtual_host_data: "simulated enclaves have measurements of Nitro's form; use add_nitro_measurement",
  remove_virtual_host_data: "simulated enclaves have measurements of Nitro's form; use remove_nitro_measurement",
  trigger_acme_refresh: "this service gets no certificates by ACME",
};

// What is wrong with one action of a proposal.
function problemsOfAction(wanted) {
  if (!isObject(wanted)) return [`expected an object with name and args, got ${shown(wanted)}`];
  const action = actions.get(wanted.name);
  if (action === undefined) {
    const why = Object.hasOwn(ELSEWHERE, wanted.name)
      ? ELSEWHERE[wanted.name]
      : `there are ${[...actions.keys()].join(", ")}`;
    return [`there is no such action: ${why}`];
  }
  const args = argumentsOf(action, wanted);
  const problems = problemsOf(fields(action.args), args, "");
  if (problems.length > 0) return isObject(args) ? problems : [`args${problems[0]}`]; // the arguments themselves have no name
  try {
    return [action.check(args)].flat();
  } catch (error) {
    return [error.message];
  }
}

// Those that take no arguments, or only optional ones, may be without any.
const argumentsOf = (action, wanted) =>
  wanted.args ?? (Object.values(action.args).every((shape) => shape.optional) ? {} : wanted.args);
