// Every function of CCF's package for applications, called as its declarations say. What `pure` gives is the same wherever there is a `ccf`:
// on a node, and in Node.js with the package's own stand-in for it. What `live` gives needs a ledger.
import * as root from "@microsoft/ccf-app";
import * as consensus from "@microsoft/ccf-app/consensus.js";
import * as converters from "@microsoft/ccf-app/converters.js";
import * as crypto from "@microsoft/ccf-app/crypto.js";
import * as endpoints from "@microsoft/ccf-app/endpoints.js";
import * as global from "@microsoft/ccf-app/global.js";
import * as historical from "@microsoft/ccf-app/historical.js";
import * as kv from "@microsoft/ccf-app/kv.js";
import * as attestation from "@microsoft/ccf-app/snp_attestation.js";
import * as textcodec from "@microsoft/ccf-app/textcodec.js";

export interface Given {
  keys: { [kind: string]: { private: string; public: string } };
  certificates: { root: string; leaf: string; stranger: string };
}
type Seen = { [name: string]: unknown };

const MODULES = { root, consensus, converters, crypto, endpoints, global, historical, kv, attestation, textcodec };
const NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"] as const;
const HASHES = ["SHA-256", "SHA-384", "SHA-512"] as const;
const hex = (data: ArrayBuffer): string => Array.from(new Uint8Array(data), (byte) => byte.toString(16).padStart(2, "0")).join("");
const DATA = converters.string.encode("what is signed, ü𝄞");

/** What a function gives, or which kind of error it throws. */
function seen(ask: () => unknown): unknown {
  try {
    return ask();
  } catch (error) {
    return `throws ${error instanceof Error ? error.constructor.name : typeof error}`;
  }
}

const there = (): Seen =>
  Object.fromEntries(Object.entries(MODULES).flatMap(([name, module]) => Object.entries(module).map(([each, value]) => [`${name}.${each}`, typeof value])));

function converted(): Seen {
  const found: Seen = {};
  const both = <T>(name: string, converter: converters.DataConverter<T>, ...values: T[]): void => {
    found[name] = values.map((value) =>
      seen(() => {
        const encoded = converter.encode(value);
        return [encoded instanceof ArrayBuffer, hex(encoded), String(converter.decode(encoded)), JSON.stringify(converter.decode(encoded), (_, v) => (typeof v === "bigint" ? `${v}n` : v))];
      }),
    );
  };
  both("bool", converters.bool, true, false, 1 as unknown as boolean);
  for (const name of NUMBERS)
    both(name, converters[name], 0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, 32768, -32769, 65535, 65536, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 0.5, -0, NaN, Infinity, "1" as unknown as number);
  for (const name of ["int64", "uint64"] as const)
    both(name, converters[name], 0n, 1n, -1n, 2n ** 53n + 1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 64n - 1n, 2n ** 64n, 1 as unknown as bigint);
  both("string", converters.string, "", "a", "ü\u0000𝄞", 1 as unknown as string);
  both<any>("json", converters.json<any>(), {}, { a: [1, "ü", null, { b: false }] }, "text", 1.5, null, [], new Map([[1, 2]]), new Date(0));
  both<any>("checkedJson", converters.checkedJson<any>(), { a: [1] }, null, new Map(), new Date(0), { deep: new Map() });
  both("typedArray", converters.typedArray(Uint8Array), new Uint8Array([1, 2, 255]), new Uint8Array([1, 2, 3, 4]).subarray(1, 3), new Uint8Array());
  both("typedArray of 16 bits", converters.typedArray(Uint16Array), new Uint16Array([1, 65535]));
  both("arrayBuffer", converters.arrayBuffer, new Uint8Array([0, 1]).buffer);
  const { ccf } = global;
  found["conversions of ccf"] = [hex(ccf.strToBuf("ü")), ccf.bufToStr(ccf.strToBuf("ü")), hex(ccf.jsonCompatibleToBuf({ a: 1 })), ccf.bufToJsonCompatible(ccf.strToBuf("[1]"))];
  const text = new textcodec.TextEncoder();
  found["TextEncoder"] = [text.encoding, hex(text.encode("ü𝄞").buffer as ArrayBuffer), text.encode("") instanceof Uint8Array, seen(() => text.encodeInto("a", new Uint8Array(1)))];
  return found;
}

function stored(): Seen {
  const map = kv.typedKv("package.map", converters.string, converters.json<{ n: number }>());
  const set = kv.typedKvSet("package.set", converters.int32);
  const raw = kv.rawKv["package.raw"]!;
  const found: Seen = {};
  found["empty"] = [map.size, map.has("a"), map.get("a"), set.size, set.has(1), raw.size, raw.get(DATA), raw.has(DATA)];
  found["chained"] = [map.set("a", { n: 1 }).set("b", { n: 2 }) === map, set.add(1).add(-1).add(1) === set, raw.set(DATA, DATA).set(new ArrayBuffer(0), new ArrayBuffer(0)) !== undefined];
  found["full"] = [map.size, map.has("a"), map.get("a"), set.size, set.has(-1), raw.size, hex(raw.get(DATA)!), hex(raw.get(new ArrayBuffer(0))!)];
  const visits: unknown[] = [];
  map.forEach((value, key, table) => visits.push([key, value, table === map]));
  set.forEach((key, table) => visits.push([String(key), table === set]));
  raw.forEach((value, key, table) => visits.push([hex(key), hex(value), table.size]));
  found["visited"] = visits.map((visit) => JSON.stringify(visit)).sort();
  found["deleted"] = [map.delete("a"), map.delete("never"), set.delete(1), raw.delete(DATA), map.size, set.size, raw.size, map.get("a"), set.has(1)];
  found["by handle"] = [kv.typedKv(kv.rawKv["package.map"]!, converters.string, converters.json()).get("b"), new kv.TypedKvSet(kv.rawKv["package.set"]!, converters.int32).has(-1)];
  found["the same in ccf"] = [global.ccf.kv["package.map"]!.size, root.rawKv["package.map"]!.size, root.typedKv === kv.typedKv];
  found["cleared"] = [map.clear(), set.clear(), raw.clear(), map.size, set.size, raw.size];
  found["wrong"] = [seen(() => map.set(1 as unknown as string, { n: 1 })), seen(() => set.add("x" as unknown as number)), map.size, set.size];
  return found;
}

function computed({ keys, certificates }: Given): Seen {
  const found: Seen = {};
  found["digest"] = hex(crypto.digest("SHA-256", DATA));
  const signing = (name: string, algorithm: crypto.SigningAlgorithm, key: { private: string; public: string }, isShown = true): void => {
    const signature = crypto.sign(algorithm, key.private, DATA);
    const wrong = new Uint8Array(signature.byteLength).buffer;
    const check = (given: ArrayBuffer, data: ArrayBuffer): boolean => crypto.verifySignature(algorithm, key.public, given, data);
    found[name] = [isShown ? hex(signature) : signature.byteLength, check(signature, DATA), check(signature, new ArrayBuffer(1)), check(wrong, DATA)];
  };
  signing("EdDSA", { name: "EdDSA" }, keys["ed"]!);
  signing("ECDSA", { name: "ECDSA", hash: "SHA-256" }, keys["ec"]!, false);
  signing("RSA-PSS without salt", { name: "RSA-PSS", hash: "SHA-256" }, keys["rsa"]!);
  signing("RSA-PSS with salt", { name: "RSA-PSS", hash: "SHA-256", saltLength: 32 }, keys["rsa"]!, false);
  for (const hash of HASHES) {
    found[`sign with ${hash}`] = [hex(crypto.sign({ name: "RSA-PSS", hash }, keys["rsa"]!.private, DATA)), crypto.sign({ name: "ECDSA", hash }, keys["ec"]!.private, DATA).byteLength];
    found[`HMAC with ${hash}`] = hex(crypto.sign({ name: "HMAC", hash }, "a key", DATA));
  }
  found["a key of another kind"] = [
    seen(() => crypto.sign({ name: "ECDSA", hash: "SHA-256" }, keys["rsa"]!.private, DATA)),
    seen(() => crypto.verifySignature({ name: "RSA-PSS", hash: "SHA-256" }, keys["ec"]!.public, DATA, DATA)),
  ];
  found["AES keys"] = [128, 192, 256].map((size) => crypto.generateAesKey(size).byteLength);
  const pairs = [crypto.generateRsaKeyPair(2048), crypto.generateRsaKeyPair(2048, 3), crypto.generateEcdsaKeyPair("secp256r1"), crypto.generateEcdsaKeyPair("secp384r1"), crypto.generateEddsaKeyPair("curve25519"), crypto.generateEddsaKeyPair("x25519")];
  found["pairs"] = pairs.map((pair) => [Object.keys(pair).sort(), pair.privateKey.split("\n")[0], pair.publicKey.split("\n")[0]]);
  const [rsa, , ec, wide, ed, x] = pairs as [crypto.CryptoKeyPair, unknown, crypto.CryptoKeyPair, crypto.CryptoKeyPair, crypto.CryptoKeyPair, crypto.CryptoKeyPair];
  const signed = (algorithm: crypto.SigningAlgorithm, pair: crypto.CryptoKeyPair): boolean => crypto.verifySignature(algorithm, pair.publicKey, crypto.sign(algorithm, pair.privateKey, DATA), DATA);
  found["with new pairs"] = [signed({ name: "ECDSA", hash: "SHA-256" }, ec), signed({ name: "ECDSA", hash: "SHA-384" }, wide), signed({ name: "EdDSA" }, ed), signed({ name: "RSA-PSS", hash: "SHA-512" }, rsa)];
  const aes = Uint8Array.from({ length: 32 }, (_, place) => place).buffer;
  const wrapped = crypto.wrapKey(DATA, aes, { name: "AES-KWP" });
  const bytes = converters.string.encode;
  const oaep = crypto.wrapKey(aes, bytes(rsa.publicKey), { name: "RSA-OAEP" });
  found["wrapped"] = [hex(wrapped), hex(crypto.unwrapKey(wrapped, aes, { name: "AES-KWP" })), oaep.byteLength, hex(crypto.unwrapKey(oaep, bytes(rsa.privateKey), { name: "RSA-OAEP" }))];
  found["JWK"] = [
    crypto.pubPemToJwk(keys["ec"]!.public, "id"), crypto.pemToJwk(keys["ec"]!.private, "id"), crypto.pubPemToJwk(keys["ec"]!.public),
    crypto.pubRsaPemToJwk(keys["rsa"]!.public, "id"), crypto.rsaPemToJwk(keys["rsa"]!.private, "id"), crypto.rsaPemToJwk(keys["rsa"]!.private),
    crypto.pubEddsaPemToJwk(keys["ed"]!.public, "id"), crypto.eddsaPemToJwk(keys["ed"]!.private), crypto.eddsaPemToJwk(x.privateKey).crv,
  ];
  found["PEM"] = [
    crypto.pubJwkToPem(crypto.pubPemToJwk(keys["ec"]!.public)), crypto.jwkToPem(crypto.pemToJwk(keys["ec"]!.private)),
    crypto.pubRsaJwkToPem(crypto.pubRsaPemToJwk(keys["rsa"]!.public)), crypto.rsaJwkToPem(crypto.rsaPemToJwk(keys["rsa"]!.private)),
    crypto.pubEddsaJwkToPem(crypto.pubEddsaPemToJwk(keys["ed"]!.public)), crypto.eddsaJwkToPem(crypto.eddsaPemToJwk(keys["ed"]!.private)),
  ];
  const { root: authority, leaf, stranger } = certificates;
  found["bundles"] = [authority, leaf + authority, "", "no PEM"].map((pem) => crypto.isValidX509CertBundle(pem));
  found["chains"] = [[leaf, authority], [leaf + authority, authority], [leaf, stranger], ["", authority]].map(([chain, trusted]) => crypto.isValidX509CertChain(chain!, trusted!));
  const { ccf } = global;
  found["where CCF had them earlier"] = [hex(ccf.digest("SHA-256", DATA)), ccf.generateAesKey(128).byteLength, typeof ccf.generateRsaKeyPair(2048).publicKey, typeof ccf.generateEcdsaKeyPair("secp256r1").publicKey, hex(ccf.wrapKey(DATA, aes, { name: "AES-KWP" })), ccf.isValidX509CertBundle(leaf), ccf.isValidX509CertChain(leaf, authority)];
  return found;
}

export function pure(given: Given): Seen {
  return { there: there(), converted: converted(), stored: stored(), computed: computed(given) };
}

export const askPure: root.EndpointFn<Given> = (request) => ({ body: pure(request.body.json()) });

/** What the package's stand-in does not have, or does not do as its declarations say. */
export const askLive: root.EndpointFn<Given> = (request) => {
  const { keys } = request.body.json();
  const map = kv.typedKv("package.live", converters.string, converters.uint64);
  const never = map.getVersionOfPreviousWrite("never");
  const before = map.getVersionOfPreviousWrite("a");
  map.set("a", 2n ** 60n);
  const set = kv.typedKvSet("package.live.set", converters.string).add("a");
  const { view, seqno } = consensus.getLastCommittedTxId();
  const bytes = converters.string.encode;
  const label = bytes("label");
  const both = { name: "RSA-OAEP-AES-KWP", aesKeySize: 256, label } as const;
  const wrapped = crypto.wrapKey(DATA, bytes(keys["rsa"]!.public), both);
  const oaep = crypto.wrapKey(DATA, bytes(keys["rsa"]!.public), { name: "RSA-OAEP", label });
  endpoints.setClaimsDigest(crypto.digest("SHA-256", bytes("claimed")));
  endpoints.setApplyWrites(true);
  return {
    statusCode: 418,
    headers: { "x-mine": "yes" },
    body: {
      never: never === undefined,
      before,
      value: String(map.get("a")),
      setVersion: set.getVersionOfPreviousWrite("never") === undefined,
      committed: [view, seqno],
      status: consensus.getStatusForTxId(view, seqno),
      unknown: consensus.getStatusForTxId(view, seqno + 1_000_000),
      view: consensus.getViewForSeqno(seqno),
      viewOfNothing: consensus.getViewForSeqno(seqno + 1_000_000),
      historicalState: historical.historicalState === undefined,
      dropped: historical.dropCachedStates(7),
      range: seen(() => historical.getStateRange(7, 1, 2, 60)),
      hashes: HASHES.map((hash) => hex(crypto.digest(hash, DATA))),
      hmac: crypto.verifySignature({ name: "HMAC", hash: "SHA-256" }, "a key", crypto.sign({ name: "HMAC", hash: "SHA-256" }, "a key", DATA), DATA),
      wrapped: hex(crypto.unwrapKey(wrapped, bytes(keys["rsa"]!.private), both)) === hex(DATA),
      oaep: hex(crypto.unwrapKey(oaep, bytes(keys["rsa"]!.private), { name: "RSA-OAEP", label })) === hex(DATA),
      otherLabel: seen(() => crypto.unwrapKey(oaep, bytes(keys["rsa"]!.private), { name: "RSA-OAEP", label: bytes("else") })),
      dates: typeof global.ccf.enableUntrustedDateTime(true),
      metrics: typeof global.ccf.enableMetricsLogging(true),
      evidence: seen(() => attestation.verifySnpAttestation(new ArrayBuffer(1), new ArrayBuffer(1))),
      mark: converters.string.decode(bytes("\ufefftext")), // which the stand-in takes away
    },
  };
};
