// What endpoints have in common: how they refuse, and how they read what was sent.
import * as ccfapp from "@microsoft/ccf-app";

/** A request that is refused. Thrown from any depth, it is what the client is told; nothing that was written is kept. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The same form as that of the service's own errors, so that clients have one to read. */
export interface ErrorBody {
  error: { code: string; message: string };
}

/** Make an endpoint of a function that may throw a Refusal. Whatever else it throws is a 500 that says nothing of its cause. */
export function endpoint<A, B>(answer: (request: ccfapp.Request<A>) => ccfapp.Response<B>): ccfapp.EndpointFn<A, B | ErrorBody> {
  return (request) => {
    try {
      return answer(request);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return { statusCode: error.status, body: { error: { code: error.code, message: error.message } } };
    }
  };
}

/** The body as JSON: an object, of whose fields the caller of this function still has to look at the types. */
export function bodyOf<T extends object>(request: ccfapp.Request<T>): Partial<T> {
  let body: unknown;
  try {
    body = request.body.json();
  } catch {
    throw new Refusal(400, "InvalidInput", "The body is no JSON.");
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new Refusal(400, "InvalidInput", "The body is no JSON object.");
  }
  return body as Partial<T>;
}

/** A parameter of the path, decoded: a function is given it as it was sent. */
export function paramOf(request: ccfapp.Request, name: string): string {
  try {
    return decodeURIComponent(request.params[name] ?? "");
  } catch {
    throw new Refusal(400, "InvalidResourceName", `The path's ${name} is not encoded as UTF-8 and percent signs.`);
  }
}

/** A parameter of the query, which is decoded when a function is given it. */
export function queryOf(request: ccfapp.Request, name: string): string | undefined {
  for (const part of request.query.split("&")) {
    const [key, ...value] = part.split("=");
    if (key === name) return value.join("=");
  }
  return undefined;
}

/** A whole number of the query. */
export function numberOf(request: ccfapp.Request, name: string): number | undefined {
  const text = queryOf(request, name);
  if (text === undefined) return undefined;
  if (!/^\d{1,15}$/.test(text)) {
    throw new Refusal(400, "InvalidQueryParameterValue", `The query's ${name} is no whole number: ${text}`);
  }
  return Number(text);
}

export const hex = (bytes: ArrayBuffer): string => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Bytes of hexadecimal digits, or undefined if they are none. */
export function unhex(text: unknown): ArrayBuffer | undefined {
  if (typeof text !== "string" || !/^([0-9a-f]{2})*$/.test(text)) return undefined;
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16)).buffer;
}
