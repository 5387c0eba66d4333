// Two operations on a map for each request: is there something, and now there is this.
const records = ccf.kv["records"];

export function put(request) {
  const key = ccf.strToBuf(request.params.key);
  const known = records.has(key);
  records.set(key, request.body.arrayBuffer());
  return { statusCode: 204, headers: { "x-known": known ? "yes" : "no" } };
}
