// Who is known, by the service's own tables, which applications may read.

export function isKnown(id) {
  const key = ccf.strToBuf(id);
  if (ccf.kv["public:ccf.gov.users.certs"].has(key)) return true;
  const member = ccf.kv["public:ccf.gov.members.info"].get(key);
  return member !== undefined && ccf.bufToJsonCompatible(member).status === "Active";
}
