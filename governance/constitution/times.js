// What time it is, for all who read the ledger: the time that the service's last signature before this transaction states.
//
// There is no clock here. The service signs its ledger after each batch of transactions and states when, by its attested clock; whoever
// replays the ledger finds the same signature at the same place. In a service that writes nothing time stands still.
// Source: RFC 9052 for the envelope, RFC 9597 for claims (15) in its protected header, RFC 8392 for the time of issue (6).

const HEADER_CLAIMS = 15;
const CLAIM_ISSUED_AT = 6;

const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

function bytesOfBase64(encoded) {
  const found = [];
  let bits = 0;
  let held = 0;
  for (const digit of encoded.replace(/=+$/, "")) {
    held = (held << 6) | BASE64.indexOf(digit);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      found.push((held >> bits) & 0xff);
      held &= (1 << bits) - 1;
    }
  }
  return Uint8Array.from(found);
}

// Reads the CBOR that signatures consist of: whole numbers, bytes, texts, lists, maps, tags; all of definite length.
function readCbor(bytes) {
  let at = 0;
  function argument(low) {
    if (low < 24) return low;
    let value = 0;
    for (let left = 1 << (low - 24); left > 0; left--) value = value * 256 + bytes[at++];
    return value;
  }
  function item() {
    const head = bytes[at++];
    const size = argument(head & 31);
    switch (head >> 5) {
      case 0:
        return size;
      case 1:
        return -1 - size;
      case 2:
        return bytes.slice(at, (at += size));
      case 3:
        return ccf.bufToStr(bytes.slice(at, (at += size)).buffer);
      case 4:
        return Array.from({ length: size }, item);
      case 5:
        return new Map(Array.from({ length: size }, () => [item(), item()]));
      case 6:
        return item();
      default:
        return null; // false, true, null, undefined: none of them is looked for
    }
  }
  return item();
}

// Seconds since 1970, or undefined in a service whose ledger holds no such signature yet.
function signedTime() {
  try {
    const [header] = readCbor(bytesOfBase64(readJson(COSE_SIGNATURES)));
    return readCbor(header).get(HEADER_CLAIMS).get(CLAIM_ISSUED_AT);
  } catch {
    return undefined; // no signature, or none that says when: then nothing runs out, rather than nothing be decided any more
  }
}

const timeText = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19)}Z`;
