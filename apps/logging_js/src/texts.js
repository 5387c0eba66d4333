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

// A function of an endpoint whose path ends in a key, which comes as it was sent.
export const keyed = (serve) => (request) => {
  let key;
  try {
    key = decodeURIComponent(request.params.key);
  } catch {
    return refusal(400, "InvalidResourceName", "A percent-escape in the path is broken, or is not UTF-8.");
  }
  return serve(key, request);
};

export const found = (text, key) => (text === undefined ? missing(key) : { body: text });

export const missing = (key) => refusal(404, "ResourceNotFound", `There is no record ${key}.`);

const refusal = (statusCode, code, message) => ({ statusCode, body: { error: { code, message } } });
