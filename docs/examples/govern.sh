#!/usr/bin/env bash
# Govern a service from its first minute on, with curl, jq, openssl and CCF's own signers alone: no program of ledgerd takes part.
#
#   govern.sh FOLDER URL
#
# FOLDER has what its members and its user brought: member0_cert.pem, member0_privk.pem, the same for member1, member2 and user0, and
# service_cert.pem, which the first node has written. URL is that of the first node, for example https://127.0.0.1:8000. The service was
# started with admission = "vote" and these three members; two more nodes have asked to join, and wait. CCF's signers, of the PyPI package
# `ccf`, are on PATH. A test runs this file as it stands, so all that it shows works (tests/end_to_end/test_governance_by_curl.py).
#
# What it prints is for people. It ends with status 0 when every step was taken and read back, and with another at the first that was not.
set -euo pipefail

FOLDER="$1"
URL="$2"
VERSION="api-version=2024-07-01"
YES='export function vote(proposal, proposerId) { return true; }'
NO='export function vote(proposal, proposerId) { return false; }'
WAIT_SECONDS=30
TEMPORARY="$(mktemp -d)"
trap 'rm -rf "$TEMPORARY"' EXIT

# Words for what members do.

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'govern: %s\n' "$*" >&2; exit 1; }
now() { date -u +%Y-%m-%dT%H:%M:%S+00:00; }
id_of() { openssl x509 -in "$FOLDER/$1_cert.pem" -outform DER | sha256sum | cut -d ' ' -f 1; } # of a member or a user
ask() { curl --silent --show-error --retry 20 --retry-delay 1 --cacert "$FOLDER/service_cert.pem" "$@"; } # 503 is tried again: while nodes join or leave there may be no primary for a moment

read_gov() { # PATH: what anybody may read of governance
  ask --fail "$URL/gov/$1?$VERSION"
}

post() { # PATH: send the signed request on standard input, and print the answer's body; an error ends the script
  local status
  status="$(ask --output "$TEMPORARY/answer" --write-out '%{http_code}' -H 'content-type: application/cose' \
    --data-binary @- "$URL/gov/members/$1?$VERSION")"
  case "$status" in 2*) cat "$TEMPORARY/answer" ;; *) fail "$1 was answered $status: $(cat "$TEMPORARY/answer")" ;; esac
}

sign() { # MEMBER TYPE [PROPOSAL]: sign standard input; the key lies in a file
  ccf_cose_sign1 --content - --signing-cert "$FOLDER/$1_cert.pem" --signing-key "$FOLDER/$1_privk.pem" \
    --ccf-gov-msg-type "$2" --ccf-gov-msg-created-at "$(now)" ${3:+--ccf-gov-msg-proposal-id "$3"}
}

sign_in_vault() { # MEMBER TYPE [PROPOSAL]: the same in two steps, with the key elsewhere; openssl stands for the vault
  local about=(--content "$TEMPORARY/payload" --signing-cert "$FOLDER/$1_cert.pem" --ccf-gov-msg-type "$2"
    --ccf-gov-msg-created-at "$(now)" ${3:+--ccf-gov-msg-proposal-id "$3"})
  cat >"$TEMPORARY/payload"
  ccf_cose_sign1_prepare "${about[@]}" | jq -r .value | base64 -d >"$TEMPORARY/digest"
  openssl pkeyutl -sign -inkey "$FOLDER/$1_privk.pem" -in "$TEMPORARY/digest" -out "$TEMPORARY/der"
  # A vault gives the two numbers of the signature one after the other; openssl wraps them in ASN.1.
  openssl asn1parse -inform DER -in "$TEMPORARY/der" | sed -n 's/.*INTEGER *://p' |
    while read -r number; do printf '%64s' "$number" | tr ' ' 0; done | xxd -r -p |
    base64 -w 0 | tr '+/' '-_' | jq -R '{value: .}' >"$TEMPORARY/signature"
  ccf_cose_sign1_finish "${about[@]}" --signature "$TEMPORARY/signature"
}

acknowledge() { # MEMBER: become active, by signing a digest of the service's state
  local id
  id="$(id_of "$1")"
  printf '' | sign "$1" state_digest | post "state-digests/$id:update" | jq '{stateDigest}' >"$TEMPORARY/ack"
  sign "$1" ack <"$TEMPORARY/ack" | post "state-digests/$id:ack"
}

propose() { # MEMBER: propose the actions on standard input, as JSON; prints the proposal's id
  jq -c '{actions: .}' | sign "$1" proposal | post proposals:create | jq -r .proposalId
}

vote() { # MEMBER PROPOSAL BALLOT [SIGNER]: prints what has become of the proposal
  jq -n --arg ballot "$3" '{ballot: $ballot}' | "${4:-sign}" "$1" ballot "$2" |
    post "proposals/$2/ballots/$(id_of "$1"):submit" | jq -r .proposalState
}

decide() { # propose the actions on standard input and carry them by two votes of three
  local proposal state
  proposal="$(propose member0)"
  vote member0 "$proposal" "$YES" >/dev/null
  state="$(vote member1 "$proposal" "$YES")"
  [ "$state" = Accepted ] || fail "proposal $proposal is $state"
  [ "$(read_gov "members/proposals/$proposal" | jq -r .proposalState)" = Accepted ] || fail "proposal $proposal reads otherwise"
  echo "accepted: $proposal"
}

expect() { # WHAT COMMAND...: ask again until the command prints what is expected
  local wanted="$1" found='' deadline=$((SECONDS + WAIT_SECONDS))
  shift
  while found="$("$@")" && [ "$found" != "$wanted" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "expected '$wanted' of: $*; found '$found'"
    sleep 0.2
  done
  [ "$found" = "$wanted" ] || fail "expected '$wanted' of: $*; it failed"
}

gov() { read_gov "$1" | jq -r "$2"; } # PATH FILTER

# The story.

say "a new service: Opening, three members who have not looked at it yet"
expect Opening gov service/info .status
expect 3 gov service/members '[.value[] | select(.status == "Accepted")] | length'

say "each member acknowledges the state, and is active from then on"
for member in member0 member1 member2; do
  acknowledge "$member"
  expect Active gov "service/members/$(id_of "$member")" .status
done

say "the service opens, by two votes of three; one of them says no, one signs in a vault"
PROPOSAL="$(read_gov service/info | jq '[{name: "transition_service_to_open", args: {next_service_identity: .certificate}}]' | propose member0)"
expect Open gov "members/proposals/$PROPOSAL" .proposalState
expect transition_service_to_open gov "members/proposals/$PROPOSAL/actions" '.actions[0].name'
vote member0 "$PROPOSAL" "$YES"
vote member1 "$PROPOSAL" "$NO"
vote member2 "$PROPOSAL" "$YES" sign_in_vault
expect Accepted gov "members/proposals/$PROPOSAL" .proposalState
expect false gov "members/proposals/$PROPOSAL" ".finalVotes[\"$(id_of member1)\"]"
[ "$(read_gov "members/proposals/$PROPOSAL/ballots/$(id_of member1)")" = "$NO" ] || fail "the ballot reads otherwise"
expect Open gov service/info .status

say "two nodes wait; they are trusted in one proposal, and serve"
expect 2 gov service/nodes '[.value[] | select(.status == "Pending")] | length'
PENDING="$(gov service/nodes '.value[] | select(.status == "Pending") | .nodeId')"
jq -n --arg ids "$PENDING" --arg from "$(date -u +%y%m%d%H%M%SZ)" \
  '[$ids | split("\n")[] | {name: "transition_node_to_trusted", args: {node_id: ., valid_from: $from}}]' | decide
expect 3 gov service/nodes '[.value[] | select(.status == "Trusted")] | length'

say "a user"
jq -n --rawfile cert "$FOLDER/user0_cert.pem" '[{name: "set_user", args: {cert: $cert, user_data: {desk: "settlement"}}}]' | decide
expect settlement gov "service/users/$(id_of user0)" .userData.desk

say "an application in JavaScript"
jq -n --arg source 'export function put(request) {
  ccf.kv["public:notes"].set(ccf.strToBuf(request.params.name), ccf.strToBuf(request.body.text()));
  return { statusCode: 204 };
}
export function get(request) {
  const found = ccf.kv["public:notes"].get(ccf.strToBuf(request.params.name));
  return found === undefined ? { statusCode: 404 } : { body: { note: ccf.bufToStr(found), by: request.caller.id } };
}
' '
  def endpoint(function; mode): {js_module: "notes.js", js_function: function, forwarding_required: "sometimes", redirection_strategy: "none",
    authn_policies: ["user_cert"], mode: mode, openapi: {}};
  [{name: "set_js_app", args: {bundle: {
    metadata: {endpoints: {"/notes/{name}": {put: endpoint("put"; "readwrite"), get: endpoint("get"; "readonly")}}},
    modules: [{name: "notes.js", module: $source}]}}}]' | decide
expect /notes.js gov service/javascript-modules '.value[].moduleName'
expect put gov service/javascript-app '.endpoints["/notes/{name}"].PUT.jsFunction'

say "its user calls it, on whichever node"
as_user() { ask --cert "$FOLDER/user0_cert.pem" --key "$FOLDER/user0_privk.pem" "$@"; }
expect 204 as_user --output /dev/null --write-out '%{http_code}' -X PUT --data hello -H 'content-type: text/plain' "$URL/app/notes/first"
note() { as_user "$URL/app/notes/first" | jq -r '.note + " by " + .by'; }
expect "hello by $(id_of user0)" note
expect 401 ask --output /dev/null --write-out '%{http_code}' "$URL/app/notes/first" # nobody else does

say "a new constitution: from now on one member's no is enough to reject"
read_gov service/constitution | sed 's/^export function resolve(/function resolveByMajority(/' >"$TEMPORARY/constitution.js"
cat >>"$TEMPORARY/constitution.js" <<'END'
export function resolve(proposal, proposerId, votes, proposalId) {
  return votes.some(({ vote }) => !vote) ? "Rejected" : resolveByMajority(proposal, proposerId, votes, proposalId);
}
END
jq -n --rawfile text "$TEMPORARY/constitution.js" '[{name: "set_constitution", args: {constitution: $text}}]' | decide
read_gov service/constitution | cmp - "$TEMPORARY/constitution.js" || fail "the constitution reads otherwise"
PROPOSAL="$(jq -n --arg id "$(id_of user0)" '[{name: "remove_user", args: {user_id: $id}}]' | propose member0)"
[ "$(vote member1 "$PROPOSAL" "$NO")" = Rejected ] || fail "nobody has a veto"
expect settlement gov "service/users/$(id_of user0)" .userData.desk

say "a node's certificate, renewed"
NODE="${PENDING%%$'\n'*}"
of_node() { gov "service/nodes/$NODE" "$1"; }
dates() { openssl x509 -noout -startdate -enddate; }
BEFORE="$(of_node .certificate | dates)"
jq -n --arg id "$NODE" --arg from "$(date -u -d '-1 hour' +%y%m%d%H%M%SZ)" \
  '[{name: "set_node_certificate_validity", args: {node_id: $id, valid_from: $from, validity_period_days: 42}}]' | decide
AFTER="$(of_node .certificate | dates)"
[ "$AFTER" != "$BEFORE" ] || fail "the certificate is the same"
ADDRESS="$(of_node '[.rpcInterfaces[].publishedAddress][0]')"
presented() { openssl s_client -connect "$ADDRESS" </dev/null 2>/dev/null | dates; }
expect "$AFTER" presented

say "a node retires"
NODE="${PENDING##*$'\n'}"
jq -n --arg id "$NODE" '[{name: "remove_node", args: {node_id: $id}}]' | decide
expect Retired of_node .status
expect true of_node .retiredCommitted

say "all of it stands"
expect Open gov service/info .status
expect 2 gov service/nodes '[.value[] | select(.status == "Trusted")] | length'
expect Committed gov service/transactions/commit .status
