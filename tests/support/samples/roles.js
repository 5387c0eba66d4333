// Roles: given by members in a user's data, or by a user who may give them. One secret, which only some may read or write.

const given = ccf.kv["roles.given"];
const secret = ccf.kv["roles.secret"];
const ONLY = new ArrayBuffer(0); // its one key is empty

function rolesOf(id) {
  const found = given.get(ccf.strToBuf(id));
  return found === undefined ? [] : ccf.bufToJsonCompatible(found);
}

function needs(role, then) {
  return (request) => {
    const { id, data } = request.caller;
    if (data?.role === role || rolesOf(id).includes(role)) return then(request);
    return { statusCode: 401, body: { error: `only a ${role} may do this` } };
  };
}

export const readSecret = needs("reader", () => {
  const found = secret.get(ONLY);
  return { body: found === undefined ? "nothing yet" : ccf.bufToJsonCompatible(found) };
});

export const writeSecret = needs("writer", (request) => {
  secret.set(ONLY, ccf.jsonCompatibleToBuf(request.body.json().text));
  return { statusCode: 204 };
});

export const giveRole = needs("keeper", (request) => {
  const { to, role } = request.body.json();
  given.set(ccf.strToBuf(to), ccf.jsonCompatibleToBuf([...new Set([...rolesOf(to), role])]));
  return { statusCode: 204 };
});
