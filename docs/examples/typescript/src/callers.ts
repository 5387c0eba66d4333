// Who asks. The policy that accepted a caller tells the compiler what is known of them.
import * as ccfapp from "@microsoft/ccf-app";
import { Refusal } from "./answers.js";

/** Under which name somebody owns documents: users by their certificate, bearers of a token by who issued it to whom. */
export function ownerOf(caller: ccfapp.AuthnIdentity | undefined): string {
  switch (caller?.policy) {
    case "user_cert":
      return `user ${caller.id}`;
    case "jwt":
      return `bearer ${caller.jwt.payload.sub} of ${caller.jwt.keyIssuer}`;
    default:
      throw new Refusal(403, "AuthorizationFailed", "Documents are owned by users and by bearers of tokens.");
  }
}

/** One line about a caller. Where app.json names no policy, there is none: `null`, of which the types do not tell. */
export function describe(caller: ccfapp.AuthnIdentity | null | undefined): string {
  if (caller === null || caller === undefined) return "nobody was asked";
  switch (caller.policy) {
    case "no_auth":
      return "anybody";
    case "any_cert":
      return `somebody with a certificate of ${caller.cert.length} characters`;
    case "user_cert":
      return `user ${caller.id}, of whom members say ${JSON.stringify(caller.data)}`;
    case "member_cert":
      return `member ${caller.id}`;
    case "user_cose_sign1":
    case "member_cose_sign1":
      return `signer ${caller.id} of ${caller.cose.content.byteLength} bytes`;
    case "jwt":
      return ownerOf(caller);
    default: // several policies at once, each with what it found
      return `${caller.policy.join(" and ")}: ${describe(caller.user_cert)}; ${describe(caller.jwt)}`;
  }
}
