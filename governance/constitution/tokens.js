// Actions on who may issue tokens (JWT) to the application's callers, and on the roots that vouch for those issuers' servers.

const CURVES = {
  "P-256": { bytes: 32, alg: "ES256" },
  "P-384": { bytes: 48, alg: "ES384" },
  "P-521": { bytes: 66, alg: "ES512" },
};

const BASE64URL = matching(/^[A-Za-z0-9_-]+$/, "base64url without padding");

// A key says what it is by a certificate (x5c), by the numbers of an RSA key (n, e) or by a point (crv, x, y).
const KEY = fields(
  {
    kid: filled,
    kty: choice("RSA", "EC"),
    use: optional(choice("sig")),
    alg: optional(choice("RS256", ...Object.values(CURVES).map((curve) => curve.alg))),
    x5c: optional(each(matching(/^[A-Za-z0-9+/]+={0,2}$/, "a certificate's DER in base64"), { least: 1 })),
    n: optional(BASE64URL),
    e: optional(BASE64URL),
    crv: optional(choice(...Object.keys(CURVES))),
    x: optional(BASE64URL),
    y: optional(BASE64URL),
  },
  { others: true },
);

const JWKS = fields({ keys: each(KEY) }, { others: true });

const bytesIn = (encoded) => Math.floor((encoded.length * 3) / 4);

function problemsOfKeys({ keys }) {
  const kids = keys.map((key) => key.kid);
  return keys.flatMap((key, position) => {
    const where = `jwks.keys[${position}]`;
    if (kids.indexOf(key.kid) < position) return [`${where}.kid: ${shown(key.kid)} is there twice`];
    return problemsOfKey(key).map((problem) => `${where}${problem}`);
  });
}

function problemsOfKey(key) {
  const isRsa = key.kty === "RSA";
  const given = (name) => (key[name] ?? null) !== null;
  const algs = isRsa
    ? ["RS256"]
    : given("crv")
      ? [CURVES[key.crv].alg]
      : Object.values(CURVES).map((curve) => curve.alg);
  if (given("alg") && !algs.includes(key.alg))
    return [`.alg: a key of this type has ${algs.join(" or ")}, got ${shown(key.alg)}`];
  const strange = (isRsa ? ["crv", "x", "y"] : ["n", "e"]).filter(given);
  if (strange.length > 0) return [`.${strange[0]}: a key of type ${key.kty} has none`];
  const parts = isRsa ? ["n", "e"] : ["crv", "x", "y"];
  const present = parts.filter(given);
  if (!given("x5c") && present.length < parts.length)
    return [`: expected x5c, or ${parts.join(", ")}, got ${listed(Object.keys(key))}`];
  return [
    ...(given("x5c") ? problemsOfChain(key.x5c) : []),
    ...(present.length > 0 ? problemsOfNumbers(key, isRsa, parts) : []),
  ];
}

function problemsOfChain(x5c) {
  const pems = x5c.map((der) => `-----BEGIN CERTIFICATE-----\n${der}\n-----END CERTIFICATE-----\n`);
  const bad = pems.findIndex((pem) => !ccf.crypto.isValidX509CertBundle(pem));
  if (bad >= 0) return [`.x5c[${bad}]: expected a certificate's DER in base64, got ${shown(x5c[bad])}`];
  // One alone need be nobody's authority: issuers publish keys in certificates that they have signed with them.
  return pems.length === 1 || ccf.crypto.isValidX509CertChain(pems.join(""), pems.at(-1))
    ? []
    : [".x5c: its certificates are no chain up to the last"];
}

function problemsOfNumbers(key, isRsa, parts) {
  const missing = parts.find((name) => (key[name] ?? null) === null);
  if (missing !== undefined) return [`.${missing}: expected with ${parts.join(", ")}, got nothing`];
  if (isRsa && bytesIn(key.n) < RSA_BYTES_MIN)
    return [`.n: expected a modulus of ${8 * RSA_BYTES_MIN} bits or more, got about ${8 * bytesIn(key.n)}`];
  const bytes = isRsa ? undefined : CURVES[key.crv].bytes;
  const wrong = isRsa ? undefined : ["x", "y"].find((name) => bytesIn(key[name]) !== bytes);
  if (wrong !== undefined) return [`.${wrong}: expected ${bytes} bytes for ${key.crv}, got ${bytesIn(key[wrong])}`];
  try {
    const { kid, n, e, crv, x, y } = key;
    if (isRsa) ccf.crypto.pubRsaJwkToPem({ kty: "RSA", kid, n, e });
    else ccf.crypto.pubJwkToPem({ kty: "EC", kid, crv, x, y });
  } catch {
    return [`: ${parts.join(", ")} are no ${key.kty} public key`];
  }
  return [];
}

const ISSUER = filled;

define("set_ca_cert_bundle", {
  args: { name: filled, cert_bundle: certificates },
  apply: ({ name, cert_bundle }) => writeJson(CA_CERT_BUNDLES, name, cert_bundle),
});

define("remove_ca_cert_bundle", { args: { name: filled }, apply: ({ name }) => remove(CA_CERT_BUNDLES, name) });

define("set_jwt_issuer", {
  args: {
    issuer: matching(/^https:\/\/[^/?#]+[^?#]*$/, "a URL that begins with https:// and has no query and no fragment"),
    auto_refresh: optional(flag),
    ca_cert_bundle_name: optional(filled),
    jwks: optional(JWKS),
  },
  check({ auto_refresh, ca_cert_bundle_name: bundle, jwks }) {
    return [
      ...(auto_refresh && (bundle ?? null) === null
        ? ["ca_cert_bundle_name: expected where auto_refresh is true, got nothing"]
        : []),
      ...((jwks ?? null) === null ? [] : problemsOfKeys(jwks)),
    ];
  },
  apply({ jwks, ...metadata }) {
    const { issuer, auto_refresh, ca_cert_bundle_name: bundle } = metadata;
    if (auto_refresh && !has(CA_CERT_BUNDLES, bundle)) {
      throw new Error(
        `ca_cert_bundle_name: there is no bundle ${bundle}; there are ${listed(rowsOf(CA_CERT_BUNDLES).map(([name]) => name))}`,
      );
    }
    if ((jwks ?? null) !== null) ccf.setJwtPublicSigningKeys(issuer, metadata, jwks);
    writeJson(JWT_ISSUERS, issuer, metadata);
  },
});

define("set_jwt_public_signing_keys", {
  args: { issuer: ISSUER, jwks: JWKS },
  check: ({ jwks }) => problemsOfKeys(jwks),
  apply({ issuer, jwks }) {
    const metadata = readJson(JWT_ISSUERS, issuer);
    if (metadata === undefined) {
      throw new Error(
        `issuer: ${issuer} is not known; set_jwt_issuer makes it so, and there are ${listed(rowsOf(JWT_ISSUERS).map(([name]) => name))}`,
      );
    }
    ccf.setJwtPublicSigningKeys(issuer, metadata, jwks);
  },
});

define("remove_jwt_issuer", {
  args: { issuer: ISSUER },
  apply({ issuer }) {
    if (!has(JWT_ISSUERS, issuer)) return;
    remove(JWT_ISSUERS, issuer);
    ccf.removeJwtPublicSigningKeys(issuer);
  },
});

define("cleanup_legacy_jwt_records", {
  args: { ensure_new_records_exist: optional(flag) },
  apply({ ensure_new_records_exist }) {
    if (ensure_new_records_exist && ccf.kv[JWT_KEYS].size === 0)
      throw new Error(`the table ${JWT_KEYS} is empty: there would be no keys left`);
    clear(...JWT_LEGACY);
  },
});
