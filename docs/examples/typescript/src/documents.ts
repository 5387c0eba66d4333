// A register of documents. Who registers one owns it; the ledger proves which text it had when, and the register signs for it.
// Each exported endpoint is named in app.json, with its path, its mode and who may call it.
import * as ccfapp from "@microsoft/ccf-app";
import { type CryptoKeyPair, digest, generateEcdsaKeyPair, sign, verifySignature } from "@microsoft/ccf-app/crypto.js";
import { bodyOf, endpoint, hex, numberOf, paramOf, queryOf, Refusal, unhex } from "./answers.js";
import { describe, ownerOf } from "./callers.js";

interface Document {
  owner: string;
  sha256: string;
  text: string;
}

// Sealed in the ledger, but for the one that begins with "public:", which auditors can read.
const documents = ccfapp.typedKv("documents", ccfapp.string, ccfapp.checkedJson<Document>());
const codes = ccfapp.typedKv("codes", ccfapp.string, ccfapp.typedArray(Uint8Array));
const attempts = ccfapp.typedKv("attempts", ccfapp.string, ccfapp.uint8);
const locked = ccfapp.typedKvSet("locked", ccfapp.string);
const keys = ccfapp.typedKv("keys", ccfapp.string, ccfapp.json<CryptoKeyPair>());
const totals = ccfapp.typedKv("public:totals", ccfapp.string, ccfapp.uint64);

const ATTEMPTS_MAX = 3;
const PAGE_MAX = 100;
const NAME_LENGTH_MAX = 100;
const HANDLE = 1; // under which the node keeps the past that was asked for
const HANDLE_SECONDS = 60;
const ECDSA = { name: "ECDSA", hash: "SHA-256" } as const;

function nameOf(request: ccfapp.Request): string {
  const name = paramOf(request, "name");
  if (name.length > NAME_LENGTH_MAX) throw new Refusal(400, "InvalidResourceName", `Names have at most ${NAME_LENGTH_MAX} characters.`);
  return name;
}

function find(name: string): Document {
  const found = documents.get(name);
  if (found === undefined) throw new Refusal(404, "ResourceNotFound", `There is no document ${name}.`);
  return found;
}

function findOwn(request: ccfapp.Request, name: string): Document {
  const found = find(name);
  if (found.owner !== ownerOf(request.caller)) throw new Refusal(403, "AuthorizationFailed", `The document ${name} is somebody else's.`);
  return found;
}

/** Register a text, or a new one in its place. The receipt proves its digest. */
export const put = endpoint((request: ccfapp.Request<{ text: string }>) => {
  const name = nameOf(request);
  const { text } = bodyOf(request);
  if (typeof text !== "string") throw new Refusal(400, "InvalidInput", "The body has no text.");
  const fresh = !documents.has(name);
  if (!fresh) findOwn(request, name);
  const claims = digest("SHA-256", ccfapp.string.encode(text));
  documents.set(name, { owner: ownerOf(request.caller), sha256: hex(claims), text });
  totals.set("registered", (totals.get("registered") ?? 0n) + 1n);
  ccfapp.setClaimsDigest(claims);
  return { statusCode: fresh ? 201 : 200, body: { sha256: hex(claims) } };
});

export const get = endpoint((request) => ({ body: find(nameOf(request)) }));

export const remove = endpoint((request) => {
  const name = nameOf(request);
  findOwn(request, name);
  documents.delete(name);
  codes.delete(name);
  attempts.delete(name);
  locked.delete(name);
  return { statusCode: 204 };
});

/** Names of documents: all, or those of `owner=`; at most `limit=` of them. */
export const list = endpoint((request) => {
  const owner = queryOf(request, "owner");
  const limit = numberOf(request, "limit") ?? PAGE_MAX;
  const names: string[] = [];
  documents.forEach((document, name) => {
    if (names.length < limit && (owner === undefined || document.owner === owner)) names.push(name);
  });
  return { body: { names, stored: documents.size, registered: String(totals.get("registered") ?? 0n) } };
});

/** The last transaction that wrote a document, and what became of it. */
export const status = endpoint((request) => {
  const name = nameOf(request);
  const seqno = documents.getVersionOfPreviousWrite(name);
  const view = seqno === undefined ? null : ccfapp.getViewForSeqno(seqno);
  if (seqno === undefined || view === null) throw new Refusal(404, "ResourceNotFound", `Nobody ever wrote a document ${name}.`);
  const last = ccfapp.getLastCommittedTxId();
  return {
    body: { transaction: `${view}.${seqno}`, status: ccfapp.getStatusForTxId(view, seqno), committed: `${last.view}.${last.seqno}` },
  };
});

/** A document as one transaction wrote it (header x-ms-ccf-transaction-id), with the receipt of that transaction. */
export const historical = endpoint((request) => {
  const name = nameOf(request);
  if (ccfapp.historicalState === undefined) throw new Error("app.json gives this endpoint another mode than historical");
  const { transactionId, kv, receipt } = ccfapp.historicalState;
  const then = kv["documents"] && ccfapp.typedKv(kv["documents"], ccfapp.string, ccfapp.json<Document>()).get(name);
  if (then === undefined) throw new Refusal(404, "ResourceNotFound", `Transaction ${transactionId} did not write a document ${name}.`);
  return { body: { document: then, transactionId, receipt } };
});

/** Every text that a document had from seqno `from=` to seqno `to=`. 202 until the node has read them: ask again. */
export const history = endpoint((request) => {
  const name = nameOf(request);
  const from = numberOf(request, "from");
  const to = numberOf(request, "to");
  if (from === undefined || to === undefined) throw new Refusal(400, "InvalidInput", "The query names from and to, the first and the last seqno.");
  const states = ccfapp.getStateRange(HANDLE, from, to, HANDLE_SECONDS);
  if (states === null) return { statusCode: 202, headers: { "retry-after": "1" } };
  const texts = states.flatMap((state) => {
    const map = state.kv["documents"];
    const then = map && ccfapp.typedKv(map, ccfapp.string, ccfapp.json<Document>()).get(name);
    return then === undefined ? [] : [{ transaction: state.transactionId, text: then.text }];
  });
  ccfapp.dropCachedStates(HANDLE);
  return { body: { texts } };
});

/** Set the code with which somebody else can take a document over. */
export const setCode = endpoint((request: ccfapp.Request<{ code: string }>) => {
  const name = nameOf(request);
  findOwn(request, name);
  const { code } = bodyOf(request);
  if (typeof code !== "string" || code.length < 8) throw new Refusal(400, "InvalidInput", "A code has at least 8 characters.");
  codes.set(name, new Uint8Array(digest("SHA-256", ccfapp.string.encode(code))));
  attempts.delete(name);
  locked.delete(name);
  return { statusCode: 204 };
});

/** Take a document over. A wrong code is refused, and counted: what is written then is kept although the answer is no success. */
export const take = endpoint((request: ccfapp.Request<{ code: string }>) => {
  const name = nameOf(request);
  const found = find(name);
  const taker = ownerOf(request.caller);
  const code = codes.get(name);
  if (code === undefined) throw new Refusal(409, "NotOffered", `The document ${name} is not offered.`);
  if (locked.has(name)) throw new Refusal(403, "Locked", `The code of ${name} was guessed at too often. Its owner can set another.`);
  const given = bodyOf(request).code;
  if (typeof given !== "string" || hex(digest("SHA-256", ccfapp.string.encode(given))) !== hex(ccfapp.typedArray(Uint8Array).encode(code))) {
    const failed = (attempts.get(name) ?? 0) + 1;
    attempts.set(name, failed);
    if (failed === ATTEMPTS_MAX) locked.add(name);
    ccfapp.setApplyWrites(true);
    throw new Refusal(403, "WrongCode", `That is not the code. ${ATTEMPTS_MAX - failed} attempts are left.`);
  }
  documents.set(name, { ...found, owner: taker });
  codes.delete(name);
  attempts.delete(name);
  return { body: { owner: taker } };
});

/** The register signs for a document's present text. Its key is made when it is first needed, and never leaves the service. */
export const seal = endpoint((request) => {
  const { sha256 } = find(nameOf(request));
  let pair = keys.get("seal");
  if (pair === undefined) {
    pair = generateEcdsaKeyPair("secp256r1");
    keys.set("seal", pair);
  }
  return { body: { sha256, signature: hex(sign(ECDSA, pair.privateKey, ccfapp.string.encode(sha256))), publicKey: pair.publicKey } };
});

/** Whether the register has signed for a text of this digest. */
export const checkSeal = endpoint((request: ccfapp.Request<{ sha256: string; signature: string }>) => {
  const body = bodyOf(request);
  const signature = unhex(body.signature);
  if (typeof body.sha256 !== "string" || signature === undefined) throw new Refusal(400, "InvalidInput", "The body has sha256 and signature, in hex.");
  const pair = keys.get("seal");
  return { body: { valid: pair !== undefined && verifySignature(ECDSA, pair.publicKey, signature, ccfapp.string.encode(body.sha256)) } };
});

export const whoami = endpoint((request) => ({ body: describe(request.caller) }));
