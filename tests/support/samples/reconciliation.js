// Parties submit what they believe of the same records; each learns where it stands, and not what the others have said.

import { isKnown } from "./identities.js";
import { parse } from "./csv.js";
import { typed, json, text } from "./typed.js";

const believed = typed("reconciliation.believed", text, json);
const PARTIES_NEEDED = 3;

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function answering(handle) {
  return (request) => {
    try {
      if (!isKnown(request.caller.id)) throw new Refusal(401, "nobody knows you");
      return { statusCode: 200, headers: { "Content-Type": "application/json" }, body: { content: handle(request) } };
    } catch (error) {
      if (error instanceof Refusal) return { statusCode: error.status, body: { error: error.message } };
      throw error;
    }
  };
}

function take(request, rows) {
  if (!Array.isArray(rows) || rows.length === 0) throw new Refusal(400, "nothing was submitted");
  if (!rows.every((row) => Object.hasOwn(row, "id") && Object.hasOwn(row, "value"))) throw new Refusal(400, "a record has an id and a value");
  for (const { id, value } of rows) {
    believed.set(id, { ...(believed.get(id) ?? {}), [request.caller.id]: value });
  }
  return rows.length;
}

function standing(id, values, party) {
  const mine = values[party];
  const all = Object.values(values);
  const agreeing = all.filter((value) => value === mine).length;
  const different = new Set(all).size;
  const group = all.length < PARTIES_NEEDED ? "too few" : different === 1 ? "agreed" : "not agreed";
  return { id, value: mine, group, with_most: agreeing > all.length - agreeing, agreeing, different };
}

export const submit = answering((request) => {
  let rows;
  try {
    rows = request.body.json();
  } catch (error) {
    throw new Refusal(400, `no JSON: ${error.name}`);
  }
  return take(request, rows);
});

export const submitTable = answering((request) => take(request, parse(request.body.text())));

export const report = answering((request) => {
  const rows = [];
  believed.forEach((values, id) => {
    if (request.caller.id in values) rows.push(standing(id, values, request.caller.id));
  });
  return rows;
});

export const reportOne = answering((request) => {
  const id = decodeURIComponent(request.params.id);
  const values = believed.get(id);
  if (values === undefined || !(request.caller.id in values)) throw new Refusal(400, `you have submitted nothing of ${id}`);
  return standing(id, values, request.caller.id);
});
