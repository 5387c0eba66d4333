// Actions on what may join: which images, below which roots of attestation, on which firmware, of which version.
//
// What lets more in changes what other open proposals mean, so those are dropped, as in CCF. What is taken out must be there: whoever votes
// for that believes that something is shut out by it, and a mistyped row would shut out nothing.

const ALLOWED = "AllowedToJoin";

function allow(table, name, value, proposalId) {
  writeJson(table, name, value);
  dropOthers(proposalId);
}

function disallow(table, name, what) {
  if (!has(table, name))
    throw new Error(`${what} ${name} is not accepted now; accepted are ${listed(rowsOf(table).map(([row]) => row))}`);
  remove(table, name);
}

// Nitro: all three registers count together, since PCR0 alone does not fix where the parts of an image end.

const PCR = hex(48);
const PCRS = { pcr0: PCR, pcr1: PCR, pcr2: PCR };
const rowOfPcrs = ({ pcr0, pcr1, pcr2 }) => `${pcr0}:${pcr1}:${pcr2}`;

define("add_nitro_measurement", {
  args: PCRS,
  check: (args) =>
    ["pcr0", "pcr1"]
      .filter((name) => /^0*$/.test(args[name]))
      .map((name) => `${name}: is zero, as only a debug enclave's is, whose memory can be read`),
  apply: (args, proposalId) => allow(NITRO_MEASUREMENTS, rowOfPcrs(args), ALLOWED, proposalId),
});

define("remove_nitro_measurement", {
  args: PCRS,
  apply: (args) => disallow(NITRO_MEASUREMENTS, rowOfPcrs(args), "the measurement"),
});

define("add_nitro_root", {
  args: { root: certificate },
  apply({ root }, proposalId) {
    writeText(NITRO_ROOTS, ccf.pemToId(root), root);
    dropOthers(proposalId);
  },
});

define("remove_nitro_root", {
  args: { root_id: matching(/^[0-9a-f]{64}$/, "the SHA-256 of a root's DER, 64 lower-case hexadecimal digits") },
  apply({ root_id }) {
    disallow(NITRO_ROOTS, root_id, "the root");
    if (rowsOf(NITRO_ROOTS).length === 0)
      throw new Error(`${root_id} is the only root; without any no node could be verified`);
  },
});

// SEV-SNP, in CCF's tables.

const CPUID = hex(4);
const TCB_PART = whole(0, 255);

define("add_snp_measurement", {
  args: { measurement: hex(48) },
  apply: ({ measurement }, proposalId) => allow(SNP_MEASUREMENTS, measurement, ALLOWED, proposalId),
});

define("remove_snp_measurement", {
  args: { measurement: text() },
  apply: ({ measurement }) => disallow(SNP_MEASUREMENTS, measurement, "the measurement"),
});

define("add_snp_host_data", {
  args: { host_data: hex(32), security_policy: text({ called: "the text of a container policy, or an empty string" }) },
  check({ host_data, security_policy }) {
    if (security_policy === "") return [];
    const digest = [...new Uint8Array(ccf.crypto.digest("SHA-256", ccf.strToBuf(security_policy)))];
    const found = digest.map((byte) => byte.toString(16).padStart(2, "0")).join("");
    return found === host_data ? [] : `security_policy: has the SHA-256 ${found}, not host_data, which is ${host_data}`;
  },
  apply: ({ host_data, security_policy }, proposalId) => allow(SNP_HOST_DATA, host_data, security_policy, proposalId),
});

define("remove_snp_host_data", {
  args: { host_data: text() },
  apply: ({ host_data }) => disallow(SNP_HOST_DATA, host_data, "the host data"),
});

define("add_snp_uvm_endorsement", {
  args: {
    did: matching(/^did:/, "the did of a publisher, such as did:x509:..."),
    feed: filled,
    svn: matching(/^\d{1,9}$/, "a whole number, as a string"),
  },
  apply({ did, feed, svn }, proposalId) {
    allow(SNP_UVM_ENDORSEMENTS, did, { ...readJson(SNP_UVM_ENDORSEMENTS, did), [feed]: { svn } }, proposalId);
  },
});

define("remove_snp_uvm_endorsement", {
  args: { did: text(), feed: text() },
  apply({ did, feed }) {
    const feeds = readJson(SNP_UVM_ENDORSEMENTS, did) ?? {};
    if (!Object.hasOwn(feeds, feed))
      throw new Error(
        `the feed ${feed} of ${did} is not accepted now; of it are accepted ${listed(Object.keys(feeds))}`,
      );
    delete feeds[feed];
    if (Object.keys(feeds).length === 0) remove(SNP_UVM_ENDORSEMENTS, did);
    else writeJson(SNP_UVM_ENDORSEMENTS, did, feeds);
  },
});

define("set_snp_minimum_tcb_version", {
  args: {
    cpuid: CPUID,
    tcb_version: fields({
      boot_loader: TCB_PART,
      tee: TCB_PART,
      snp: TCB_PART,
      microcode: TCB_PART,
      fmc: optional(TCB_PART),
    }),
  },
  apply: ({ cpuid, tcb_version }, proposalId) => allow(SNP_TCB_VERSIONS, cpuid, tcb_version, proposalId),
});

define("set_snp_minimum_tcb_version_hex", {
  args: { cpuid: CPUID, tcb_version: hex(8) },
  apply: ({ cpuid, tcb_version }, proposalId) =>
    allow(SNP_TCB_VERSIONS, cpuid, ccf.tcbHexToPolicy(cpuid, tcb_version), proposalId),
});

define("remove_snp_minimum_tcb_version", {
  args: { cpuid: text() },
  apply: ({ cpuid }) => disallow(SNP_TCB_VERSIONS, cpuid, "a firmware for the processor"),
});

// A floor under the versions of `ledgerd` that may join. It only rises, so that no majority of a day can bring an old fault back.

const numbersOf = (version) => version.split(".").map(Number);

function isBelow(version, floor) {
  const [one, other] = [numbersOf(version), numbersOf(floor)];
  const differs = one.findIndex((number, position) => number !== other[position]);
  return differs >= 0 && one[differs] < other[differs];
}

define("set_minimum_version", {
  args: { version: matching(/^(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){2}$/, "a version such as 1.2.0") },
  apply({ version }) {
    const floor = readJson(MINIMUM_VERSION)?.version;
    if (floor !== undefined && isBelow(version, floor))
      throw new Error(`version: ${version} is below ${floor}, and the floor only rises`);
    writeJson(MINIMUM_VERSION, undefined, { version });
  },
});
