// Actions on members: who they are, and how many of them it takes to recover the service.

const RECOVERY_ROLES = ["NonParticipant", "Participant", "Owner"];
const THRESHOLD_MAX = 254; // of CCF's scheme for sharing a secret: an index is one byte, and two of its values are not used
const RSA_BYTES_MIN = 256; // 2048 bits

const isRecovering = () => ["Recovering", "WaitingForRecoveryShares"].includes(serviceInfo().status);

function refuseDuringRecovery(what) {
  if (isRecovering())
    throw new Error(
      `${what} while the service recovers from a disaster: the shares that are being handed in would not fit any more`,
    );
}

const activeMembers = () =>
  new Set(
    rowsOf(MEMBER_INFO)
      .filter(([, value]) => ccf.bufToJsonCompatible(value).status === "Active")
      .map(([memberId]) => memberId),
  );

// Those who hold a share of the key, or all of it.
const takesPart = (memberId, info) =>
  info.status === "Active" && info.recovery_role !== "NonParticipant" && has(MEMBER_KEYS, memberId);

const recoveryMembers = () =>
  rowsOf(MEMBER_INFO).filter(([memberId, value]) => takesPart(memberId, ccf.bufToJsonCompatible(value))).length;

function refuseRecoveryMember(memberId, hasKey) {
  if (hasKey || has(MEMBER_KEYS, memberId)) refuseDuringRecovery("members who take part in recovery cannot change");
}

// What is wrong with a key to which a share is to be encrypted.
function problemsOfEncryptionKey(pem) {
  let jwk;
  try {
    jwk = ccf.crypto.pubRsaPemToJwk(pem);
  } catch {
    return [`encryption_pub_key: expected an RSA public key in PEM, got ${shown(pem)}`];
  }
  const bytes = Math.floor((jwk.n.length * 3) / 4); // base64url without padding
  return bytes < RSA_BYTES_MIN
    ? [`encryption_pub_key: expected an RSA key of ${8 * RSA_BYTES_MIN} bits or more, got one of about ${8 * bytes}`]
    : [];
}

define("set_member", {
  args: {
    cert: certificate,
    encryption_pub_key: optional(text({ called: "an RSA public key in PEM" })),
    member_data: optional(data),
    recovery_role: optional(choice(...RECOVERY_ROLES)),
  },
  check({ cert, encryption_pub_key: key, recovery_role: role }) {
    const hasKey = (key ?? null) !== null;
    if (!hasKey && (role ?? null) !== null) return "recovery_role: only a member with an encryption_pub_key has one";
    refuseRecoveryMember(ccf.pemToId(cert), hasKey);
    return hasKey ? problemsOfEncryptionKey(key) : [];
  },
  apply({ cert, encryption_pub_key: key, member_data, recovery_role }) {
    const memberId = ccf.pemToId(cert);
    const hasKey = (key ?? null) !== null;
    refuseRecoveryMember(memberId, hasKey);
    writeText(MEMBER_CERTS, memberId, cert);
    if (hasKey) writeText(MEMBER_KEYS, memberId, key);
    else remove(MEMBER_KEYS, memberId);
    // Accepted: to become Active, a member signs a digest of the state; until it asks for a fresh one, that of the last signature.
    writeJson(MEMBER_INFO, memberId, { member_data, recovery_role: recovery_role ?? undefined, status: "Accepted" });
    writeJson(MEMBER_ACKS, memberId, { state_digest: readJson(SIGNATURES)?.root ?? "" });
  },
});

define("remove_member", {
  args: { member_id: id("member") },
  check({ member_id }) {
    refuseRecoveryMember(member_id, false);
    return [];
  },
  apply({ member_id: memberId }) {
    refuseRecoveryMember(memberId, false);
    const info = readJson(MEMBER_INFO, memberId);
    if (info === undefined) return;
    const isActive = info.status === "Active";
    if (isActive && activeMembers().size === 1) {
      throw new Error(`member ${memberId} is the only active one; without it nobody could change anything any more`);
    }
    if (takesPart(memberId, info)) {
      const left = recoveryMembers() - 1;
      const threshold = serviceConfig().recovery_threshold;
      if (left < threshold) {
        throw new Error(
          `${left} members would be left to recover the service, and it takes ${threshold} (recovery_threshold); ` +
            "lower that first, or add a member",
        );
      }
    }
    const hadKey = has(MEMBER_KEYS, memberId);
    [MEMBER_INFO, MEMBER_KEYS, MEMBER_CERTS, MEMBER_ACKS, MEMBER_HISTORY].forEach((table) => remove(table, memberId));
    // Whoever held a share must not read what is written from now on.
    if (isActive && hadKey) ccf.node.triggerLedgerRekey();
  },
});

define("set_member_data", {
  args: { member_id: id("member"), member_data: orNull(data) },
  apply({ member_id, member_data }) {
    const info = readJson(MEMBER_INFO, member_id);
    if (info === undefined) throw new Error(`there is no member ${member_id}`);
    info.member_data = member_data;
    writeJson(MEMBER_INFO, member_id, info);
  },
});

// Changes what is given, and leaves the rest.
function changeServiceConfig(wanted) {
  const config = serviceConfig();
  const {
    recovery_threshold: threshold,
    recent_cose_proposals_window_size: window,
    reconfiguration_type: type,
  } = wanted;
  const newThreshold = (threshold ?? null) !== null && threshold !== config.recovery_threshold;
  if (newThreshold) {
    refuseDuringRecovery("recovery_threshold cannot change");
    const able = recoveryMembers();
    if (serviceInfo().status === "Open" && threshold > able) {
      throw new Error(
        `recovery_threshold: ${threshold} are more than the ${able} active members who take part in recovery`,
      );
    }
    config.recovery_threshold = threshold;
  }
  if ((type ?? null) !== null) config.reconfiguration_type = type;
  if ((window ?? null) !== null) config.recent_cose_proposals_window_size = window;
  writeJson(SERVICE_CONFIG, undefined, config);
  if (newThreshold) ccf.node.triggerRecoverySharesRefresh();
}

define("set_recovery_threshold", {
  args: { recovery_threshold: whole(1, THRESHOLD_MAX) },
  check() {
    refuseDuringRecovery("recovery_threshold cannot change");
    return [];
  },
  apply: ({ recovery_threshold }) => changeServiceConfig({ recovery_threshold }),
});

define("trigger_recovery_shares_refresh", {
  check() {
    refuseDuringRecovery("shares cannot be made anew");
    return [];
  },
  apply() {
    refuseDuringRecovery("shares cannot be made anew");
    ccf.node.triggerRecoverySharesRefresh();
  },
});
