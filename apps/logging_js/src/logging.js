// Text messages under keys, private or public: what apps/logging is in Python.

import { found, missing, texts } from "./texts.js";

const PRIVATE = "records";
const PUBLIC = "public:records";

function put(map, request) {
  texts(map).set(request.params.key, request.body.text());
  return { statusCode: 204 };
}

function get(map, request) {
  return found(texts(map).get(request.params.key), request);
}

function remove(map, request) {
  const messages = texts(map);
  if (!messages.has(request.params.key)) return missing(request);
  messages.delete(request.params.key);
  return { statusCode: 204 };
}

export const putPrivate = (request) => put(PRIVATE, request);
export const getPrivate = (request) => get(PRIVATE, request);
export const deletePrivate = (request) => remove(PRIVATE, request);

export function putPublic(request) {
  ccf.rpc.setClaimsDigest(ccf.crypto.digest("SHA-256", request.body.arrayBuffer()));
  return put(PUBLIC, request);
}

export const getPublic = (request) => get(PUBLIC, request);
export const deletePublic = (request) => remove(PUBLIC, request);

export function getPublicThen(request) {
  const { transactionId, kv, receipt } = ccf.historicalState;
  const message = texts(PUBLIC, kv).get(request.params.key);
  return message === undefined ? missing(request) : { body: { transactionId, message, receipt } };
}
