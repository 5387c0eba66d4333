// Maps of texts by texts, and the answers about what is in them.

export function texts(name, kv = ccf.kv) {
  const map = kv[name];
  return {
    has: (key) => map.has(ccf.strToBuf(key)),
    get: (key) => {
      const value = map.get(ccf.strToBuf(key));
      return value === undefined ? undefined : ccf.bufToStr(value);
    },
    set: (key, text) => map.set(ccf.strToBuf(key), ccf.strToBuf(text)),
    delete: (key) => map.delete(ccf.strToBuf(key)),
  };
}

export const found = (text, request) => (text === undefined ? missing(request) : { body: text });

export const missing = (request) => ({
  statusCode: 404,
  body: { error: { code: "ResourceNotFound", message: `There is no record ${request.params.key}.` } },
});
