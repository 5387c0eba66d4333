// Text messages under keys, private or public: what apps/logging is in Python.

import { found, keyed, missing, texts } from "./texts.js";

const PRIVATE = "records";
const PUBLIC = "public:records";

function put(map, key, text) {
  texts(map).set(key, text);
  return { statusCode: 204 };
}

const get = (map, key) => found(texts(map).get(key), key);

function remove(map, key) {
  const messages = texts(map);
  if (!messages.has(key)) return missing(key);
  messages.delete(key);
  return { statusCode: 204 };
}

export const putPrivate = keyed((key, request) => put(PRIVATE, key, request.body.text()));
export const getPrivate = keyed((key) => get(PRIVATE, key));
export const deletePrivate = keyed((key) => remove(PRIVATE, key));

export const putPublic = keyed((key, request) => {
  ccf.rpc.setClaimsDigest(ccf.crypto.digest("SHA-256", request.body.arrayBuffer()));
  return put(PUBLIC, key, request.body.text());
});

export const getPublic = keyed((key) => get(PUBLIC, key));
export const deletePublic = keyed((key) => remove(PUBLIC, key));

export const getPublicThen = keyed((key) => {
  const { transactionId, kv, receipt } = ccf.historicalState;
  const message = texts(PUBLIC, kv).get(key);
  return message === undefined ? missing(key) : { body: { transactionId, message, receipt } };
});
