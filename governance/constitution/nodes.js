// Actions on nodes: which that wait are trusted, and which leave.
//
// Whether those that are left could still commit anything is not in the ledger, but known to the primary: it asks that itself.

function nodeInfo(nodeId) {
  const info = readJson(NODE_INFO, nodeId);
  if (info === undefined) throw new Error(noSuchNode(nodeId));
  return info;
}

function noSuchNode(nodeId) {
  const nodes = rowsOf(NODE_INFO).map(
    ([name, value]) => `${name.slice(0, 16)}... (${ccf.bufToJsonCompatible(value).status})`,
  );
  return `there is no node ${nodeId}; there are ${listed(nodes)}`;
}

const problemsOfNode = (nodeId) => (has(NODE_INFO, nodeId) ? [] : `node_id: ${noSuchNode(nodeId)}`);

define("transition_node_to_trusted", {
  args: { node_id: id("node"), ...PERIOD },
  check: ({ node_id }) => problemsOfNode(node_id),
  apply(args) {
    const info = nodeInfo(args.node_id);
    if (info.status === "Trusted") return;
    if (info.status !== "Pending")
      throw new Error(`node ${args.node_id} is ${info.status}; only a node that waits (Pending) can be trusted`);
    info.status = "Trusted";
    info.ledger_secret_seqno = ccf.network.getLatestLedgerSecretSeqno();
    writeJson(NODE_INFO, args.node_id, info);
    if (info.certificate_signing_request !== undefined) endorse(args.node_id, info, args);
  },
});

define("remove_node", {
  args: { node_id: id("node") },
  // One that has left already may leave again; a name that never was is a mistake.
  check: ({ node_id }) => (has(FORMER_NODES, node_id) ? [] : problemsOfNode(node_id)),
  apply({ node_id: nodeId }) {
    const info = readJson(NODE_INFO, nodeId);
    if (info === undefined || info.status === "Retired") return;
    if (info.status === "Pending") {
      remove(NODE_INFO, nodeId); // and the service notes its name in FORMER_NODES, so that it cannot ask again
    } else {
      info.status = "Retired";
      writeJson(NODE_INFO, nodeId, info);
    }
  },
});

define("set_node_data", {
  args: { node_id: id("node"), node_data: optional(anything) },
  check: ({ node_id }) => problemsOfNode(node_id),
  apply({ node_id, node_data }) {
    const info = nodeInfo(node_id);
    info.node_data = node_data;
    writeJson(NODE_INFO, node_id, info);
  },
});
