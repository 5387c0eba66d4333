// How long the certificates of nodes and of the service are valid.

const VALIDITY_DAYS_DEFAULT = 365; // where the configuration says nothing, as in CCF

const PERIOD = { valid_from: optional(time), validity_period_days: optional(whole(1)) };

// Begin and length of a certificate. Without valid_from it begins at the last time that the service has signed.
function periodOf({ valid_from: from, validity_period_days: days }, limitName) {
  const most = serviceConfig()[limitName] ?? VALIDITY_DAYS_DEFAULT;
  if (days > most)
    throw new Error(`validity_period_days: ${days} are more than the ${most} that this service allows (${limitName})`);
  const now = signedTime();
  if ((from ?? null) === null && now === undefined)
    throw new Error("valid_from: has to be given, since this service has not signed yet what time it is");
  return [from ?? timeText(now).replace(/[-:T]/g, ""), days ?? most];
}

function endorse(nodeId, info, args) {
  if (info.certificate_signing_request === undefined) throw new Error(`node ${nodeId} has not asked for a certificate`);
  const period = periodOf(args, "maximum_node_certificate_validity_days");
  writeText(NODE_CERTS, nodeId, ccf.network.generateEndorsedCertificate(info.certificate_signing_request, ...period));
}

define("set_node_certificate_validity", {
  args: { node_id: id("node"), ...PERIOD },
  check: ({ node_id }) => problemsOfNode(node_id),
  apply(args) {
    const info = nodeInfo(args.node_id);
    if (info.status !== "Trusted")
      throw new Error(`node ${args.node_id} is ${info.status}; only Trusted ones have certificates`);
    endorse(args.node_id, info, args);
  },
});

define("set_all_nodes_certificate_validity", {
  args: PERIOD,
  apply(args) {
    for (const [nodeId, value] of rowsOf(NODE_INFO)) {
      const info = ccf.bufToJsonCompatible(value);
      if (info.status === "Trusted") endorse(nodeId, info, args);
    }
  },
});

define("set_service_certificate_validity", {
  args: PERIOD,
  apply(args) {
    const info = serviceInfo();
    info.cert = ccf.network.generateNetworkCertificate(...periodOf(args, "maximum_service_certificate_validity_days"));
    writeJson(SERVICE_INFO, undefined, info);
  },
});
