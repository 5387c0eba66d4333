// Shapes of arguments, and the one function that compares a value with its shape.
//
// A shape is data: what kind of value, within which limits. Actions list theirs, and from the same lists come the checks, the texts of
// refusals and a test of the documentation. Nothing here reads a table.

const text = (limits = {}) => ({ kind: "text", called: "a string", ...limits });
const matching = (pattern, called) => text({ pattern, called });
const filled = text({ pattern: /^[^]+$/, called: "a string that is not empty" });
const hex = (bytes) =>
  matching(new RegExp(`^[0-9a-f]{${2 * bytes}}$`), `a string of ${2 * bytes} lower-case hexadecimal digits`);
const id = (of) => matching(/^[0-9a-f]{64}$/, `the id of a ${of}, 64 lower-case hexadecimal digits`);
const time = matching(
  /^(\d{12}Z|\d{14}Z|\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|[+-]\d\d:?\d\d))?)?)$/,
  "a time such as 20261231235959Z or 2026-12-31T23:59:59Z",
);
const whole = (least, most) => ({ kind: "whole", least, most, called: "a whole number" + rangeText(least, most) });
const flag = { kind: "flag", called: "true or false" };
const choice = (...values) => ({
  kind: "choice",
  values,
  called: `one of ${values.map((value) => `"${value}"`).join(", ")}`,
});
const anything = { kind: "anything", called: "any value" };
const data = { kind: "data", called: "an object" };
const fields = (shapes, { others = false } = {}) => {
  const names = Object.keys(shapes);
  return {
    kind: "fields",
    shapes,
    others,
    called: names.length ? `an object with ${names.join(", ")}` : "no arguments",
  };
};
const each = (of, { least = 0 } = {}) => ({
  kind: "each",
  of,
  least,
  called: least ? `a list of ${least} or more` : "a list",
});
const under = (keys, of) => ({ kind: "under", keys, of, called: "an object" });
const either = (...shapes) => ({ kind: "either", shapes, called: shapes.map((shape) => shape.called).join(", or ") });
const certificate = { kind: "certificate", one: true, called: "exactly one X.509 certificate in PEM" };
const certificates = { kind: "certificate", one: false, called: "one or more X.509 certificates in PEM" };

// Left out or null, it is not there.
const optional = (shape) => ({ ...shape, optional: true });
// It has to be there, so that nothing is cleared by oversight; null clears it.
const orNull = (shape) => ({ ...shape, orNull: true, called: `${shape.called}, or null` });

function rangeText(least, most) {
  if (most === undefined) return least === undefined ? "" : `, ${least} or more`;
  return ` from ${least} to ${most}`;
}

const SHOWN_CHARACTERS = 60;

function shown(value) {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (typeof value === "string") {
    const begin = JSON.stringify(value.slice(0, SHOWN_CHARACTERS));
    return value.length > SHOWN_CHARACTERS
      ? `a string of ${value.length} characters that begins ${begin}`
      : `the string ${begin}`;
  }
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object")
    return Object.keys(value).length ? `an object with ${listed(Object.keys(value))}` : "an empty object";
  return `the ${typeof value} ${value}`;
}

function listed(names) {
  if (names.length === 0) return "none";
  const begin = names.slice(0, 8).map((name) => name.slice(0, SHOWN_CHARACTERS));
  return begin.join(", ") + (names.length > 8 ? ` and ${names.length - 8} more` : "");
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const countCertificates = (pem) => pem.split("-----BEGIN CERTIFICATE-----").length - 1;

// Whether a value is of its kind and in its limits, what it holds aside.
const FITS = {
  text: (shape, value) => typeof value === "string" && (shape.pattern === undefined || shape.pattern.test(value)),
  // Comparing with a limit that is not there is false, so it holds.
  whole: (shape, value) => Number.isSafeInteger(value) && !(value < shape.least) && !(value > shape.most),
  flag: (shape, value) => typeof value === "boolean",
  choice: (shape, value) => shape.values.includes(value),
  anything: () => true,
  data: (shape, value) => isObject(value),
  fields: (shape, value) => isObject(value),
  under: (shape, value) => isObject(value),
  each: (shape, value) => Array.isArray(value) && value.length >= shape.least,
  either: (shape, value) => shape.shapes.some((one) => fits(one, value)),
  certificate: (shape, value) =>
    typeof value === "string" &&
    (!shape.one || countCertificates(value) === 1) &&
    ccf.crypto.isValidX509CertBundle(value),
};

const fits = (shape, value) => FITS[shape.kind](shape, value);

const inside = (where, name) =>
  /^[A-Za-z_]\w*$/.test(name) ? (where ? `${where}.${name}` : name) : `${where}[${JSON.stringify(name)}]`;

// What is wrong with what a value holds.
const WITHIN = {
  fields(shape, value, where) {
    const known = Object.keys(shape.shapes);
    const strange = shape.others ? [] : Object.keys(value).filter((name) => !known.includes(name));
    return [
      ...strange.map(
        (name) => `${inside(where, name.slice(0, SHOWN_CHARACTERS))}: there is no such argument, but ${listed(known)}`,
      ),
      ...known.flatMap((name) =>
        problemsOf(shape.shapes[name], Object.hasOwn(value, name) ? value[name] : undefined, inside(where, name)),
      ),
    ];
  },
  under(shape, value, where) {
    return Object.keys(value).flatMap((name) =>
      shape.keys.pattern.test(name)
        ? problemsOf(shape.of, value[name], inside(where, name))
        : [`${where}: a name in it is ${shown(name)}, expected ${shape.keys.called}`],
    );
  },
  each(shape, value, where) {
    return value.flatMap((one, position) => problemsOf(shape.of, one, `${where}[${position}]`));
  },
  either(shape, value, where) {
    return problemsOf(
      shape.shapes.find((one) => fits(one, value)),
      value,
      where,
    );
  },
};

// The sentences that say what is wrong with a value: which argument, what is expected, what was given. None if it fits.
function problemsOf(shape, value, where) {
  if ((shape.optional && (value === undefined || value === null)) || (shape.orNull && value === null)) return [];
  if (!fits(shape, value)) return [`${where}: expected ${shape.called}, got ${shown(value)}`];
  return WITHIN[shape.kind]?.(shape, value, where) ?? [];
}
