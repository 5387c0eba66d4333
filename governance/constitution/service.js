// Actions on the service as a whole: when it opens, by which rules it is governed, its secrets, its files.

define("set_constitution", {
  args: { constitution: text({ called: "the text of a constitution, in JavaScript" }) },
  check({ constitution }) {
    ccf.gov.validateConstitution(constitution);
    return [];
  },
  apply({ constitution }, proposalId) {
    writeJson(CONSTITUTION, undefined, constitution);
    dropOthers(proposalId);
  },
});

define("transition_service_to_open", {
  args: { next_service_identity: certificate, previous_service_identity: optional(certificate) },
  apply({ next_service_identity: next, previous_service_identity: previous }) {
    const known = (previous ?? null) !== null;
    if (serviceInfo().status === "Recovering" && !known) {
      throw new Error(
        "previous_service_identity: a service that recovers names the one that it continues, so that all have said which",
      );
    }
    ccf.node.transitionServiceToOpen(known ? ccf.strToBuf(previous) : undefined, ccf.strToBuf(next));
  },
});

define("assert_service_identity", {
  args: { service_identity: certificate },
  check({ service_identity }) {
    if (serviceInfo().cert === service_identity) return [];
    return "service_identity: this service has another certificate; the proposal was made for a service of that name, not for this one";
  },
  apply() {},
});

define("set_service_configuration", {
  args: {
    reconfiguration_type: optional(choice("OneTransaction")),
    recovery_threshold: optional(whole(1, THRESHOLD_MAX)),
    recent_cose_proposals_window_size: optional(whole(1, 10000)),
  },
  apply: changeServiceConfig,
});

define("trigger_ledger_rekey", {
  check() {
    refuseDuringRecovery("the ledger's secret cannot change");
    return [];
  },
  apply() {
    refuseDuringRecovery("the ledger's secret cannot change");
    ccf.node.triggerLedgerRekey();
  },
});

define("trigger_ledger_chunk", { apply: () => ccf.node.triggerLedgerChunk() });

define("trigger_snapshot", { apply: () => ccf.node.triggerSnapshot() });

// What other open proposals would do, or who decides on them, is not any more what their voters saw: they have to be made again.
function dropOthers(proposalId, where = () => true) {
  for (const [otherId, value] of rowsOf(PROPOSALS_INFO)) {
    const info = ccf.bufToJsonCompatible(value);
    if (otherId !== proposalId && info.state === "Open" && where(otherId)) {
      info.state = "Dropped";
      writeJson(PROPOSALS_INFO, otherId, info);
    }
  }
}
