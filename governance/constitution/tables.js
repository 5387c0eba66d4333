// The tables that actions read and write, by CCF's names; ours begin with public:ccf.gov.ledgerd. and public:ccf.gov.nodes.nitro.
//
// Keys are texts; a table with one record has it under eight zero bytes, which is what leaving the key out means here.

const MEMBER_CERTS = "public:ccf.gov.members.certs";
const MEMBER_KEYS = "public:ccf.gov.members.encryption_public_keys";
const MEMBER_INFO = "public:ccf.gov.members.info";
const MEMBER_ACKS = "public:ccf.gov.members.acks";
const MEMBER_HISTORY = "public:ccf.gov.history";
const USER_CERTS = "public:ccf.gov.users.certs";
const USER_INFO = "public:ccf.gov.users.info";
const NODE_INFO = "public:ccf.gov.nodes.info";
const NODE_CERTS = "public:ccf.gov.nodes.endorsed_certificates";
const FORMER_NODES = "public:ccf.gov.ledgerd.former_nodes";
const NITRO_MEASUREMENTS = "public:ccf.gov.nodes.nitro.measurements";
const NITRO_ROOTS = "public:ccf.gov.nodes.nitro.roots";
const SNP_MEASUREMENTS = "public:ccf.gov.nodes.snp.measurements";
const SNP_HOST_DATA = "public:ccf.gov.nodes.snp.host_data";
const SNP_UVM_ENDORSEMENTS = "public:ccf.gov.nodes.snp.uvm_endorsements";
const SNP_TCB_VERSIONS = "public:ccf.gov.nodes.snp.tcb_versions";
const MINIMUM_VERSION = "public:ccf.gov.ledgerd.minimum_version";
const SERVICE_INFO = "public:ccf.gov.service.info";
const SERVICE_CONFIG = "public:ccf.gov.service.config";
const CONSTITUTION = "public:ccf.gov.constitution";
const PROPOSALS = "public:ccf.gov.proposals";
const PROPOSALS_INFO = "public:ccf.gov.proposals_info";
const PROPOSAL_POLICY = "public:ccf.gov.ledgerd.proposal_policy";
const RECENT_PROPOSALS = "public:ccf.gov.cose_recent_proposals";
const MODULES = "public:ccf.gov.modules";
const MODULES_BYTECODE = "public:ccf.gov.modules_quickjs_bytecode";
const MODULES_BYTECODE_VERSION = "public:ccf.gov.modules_quickjs_version";
const INTERPRETER_FLUSH = "public:ccf.gov.interpreter.flush";
const ENDPOINTS = "public:ccf.gov.endpoints";
const RUNTIME_OPTIONS = "public:ccf.gov.js_runtime_options";
const CA_CERT_BUNDLES = "public:ccf.gov.tls.ca_cert_bundles";
const JWT_ISSUERS = "public:ccf.gov.jwt.issuers";
const JWT_KEYS = "public:ccf.gov.jwt.public_signing_keys_metadata_v2";
const JWT_LEGACY = [
  "public:ccf.gov.jwt.public_signing_keys",
  "public:ccf.gov.jwt.public_signing_keys_metadata",
  "public:ccf.gov.jwt.public_signing_key_issuer",
];
const SIGNATURES = "public:ccf.internal.signatures";
const COSE_SIGNATURES = "public:ccf.internal.cose_signatures";

const keyOf = (name) => (name === undefined ? new ArrayBuffer(8) : ccf.strToBuf(name));

const has = (table, name) => ccf.kv[table].has(keyOf(name));
const remove = (table, name) => ccf.kv[table].delete(keyOf(name));
const clear = (...tables) => tables.forEach((table) => ccf.kv[table].clear());

function readJson(table, name) {
  const value = ccf.kv[table].get(keyOf(name));
  return value === undefined ? undefined : ccf.bufToJsonCompatible(value);
}

function readText(table, name) {
  const value = ccf.kv[table].get(keyOf(name));
  return value === undefined ? undefined : ccf.bufToStr(value);
}

function writeJson(table, name, value) {
  ccf.kv[table].set(keyOf(name), ccf.jsonCompatibleToBuf(value));
}

function writeText(table, name, value) {
  ccf.kv[table].set(keyOf(name), ccf.strToBuf(value));
}

// All of a table's records as [name, bytes], taken before anything is written; sorted, so that nothing depends on the order in which an
// engine visits them.
function rowsOf(table) {
  const rows = [];
  ccf.kv[table].forEach((value, key) => {
    rows.push([ccf.bufToStr(key), value]);
  });
  return rows.sort(([one], [other]) => (one < other ? -1 : one > other ? 1 : 0));
}

function serviceInfo() {
  const info = readJson(SERVICE_INFO);
  if (info === undefined) throw new Error(`the table ${SERVICE_INFO} is empty: this is no service yet`);
  return info;
}

function serviceConfig() {
  const config = readJson(SERVICE_CONFIG);
  if (config === undefined) throw new Error(`the table ${SERVICE_CONFIG} is empty: this is no service yet`);
  return config;
}
