// What scripts find: `ccf`, `console`, and a clock and chance that the enclave has chosen. Run first in every context, as one function.
//
// Everything that is used later is taken here, before any script has run, so that a script that replaces built-in functions changes
// nothing but its own. What a script could do to these functions anyway, it could do by itself: the enclave checks every request.
//
// door(n): hands the first n bytes of `shared` over, or -n of them as the beginning of something longer. Answers with a number; values
// pass through `holder[0]`. The ways through it are most of what a short run costs, so an endpoint finds what it is expected to read, and
// leaves what it writes, in two further parts of `shared`; the worker looks at those when the script comes through the door, and at its end.
(function (door, shared, holder, configuration) {
  'use strict';

  const uncurry = Function.prototype.bind.bind(Function.prototype.call);
  const getter = (object, name) => uncurry(Object.getOwnPropertyDescriptor(object, name).get);
  const Buffer = ArrayBuffer;
  const Bytes = Uint8Array;
  const typed = Object.getPrototypeOf(Uint8Array.prototype);
  const lengthOf = getter(ArrayBuffer.prototype, 'byteLength');
  const copyInto = uncurry(typed.set);
  const isView = ArrayBuffer.isView;
  const typedParts = [getter(typed, 'buffer'), getter(typed, 'byteOffset'), getter(typed, 'byteLength')];
  const dataParts = ['buffer', 'byteOffset', 'byteLength'].map((name) => getter(DataView.prototype, name));
  const bufferOf = typedParts[0];
  const typedTag = getter(typed, Symbol.toStringTag);
  const { keys, create, defineProperty } = Object;
  const { isArray } = Array;
  const { isInteger } = Number;
  const { stringify, parse } = JSON;
  const { min, imul, floor } = Math;
  const Text = String;
  const Failure = Error;
  const Mistake = TypeError;
  const Excess = RangeError;
  const Handles = Proxy;
  const promised = Promise.prototype;
  const inherits = uncurry(Object.prototype.isPrototypeOf);

  const OPEN = 1, TO_BUFFER = 2, TO_TEXT = 3, RANDOM = 4, OWN = 5;
  const SET = 11, DELETE = 12, CLEAR = 13, GET = 14, HAS = 15, VERSION = 16, SIZE = 17, PAGE = 18, CALL = 19, LOG = 20;
  const READ = 1, WRITE = 2;
  const HEADER = 24;
  const PART = 1 << 16; // of `shared`: requests, what is given, what is written
  const GIVEN = PART, WRITTEN = 2 * PART;
  const REFUSED = -2, FORBIDDEN = -3, OUT_OF_RANGE = -4;

  const space = new Bytes(shared);
  const header = new Uint32Array(shared);
  const nothing = new Buffer(0);
  const slice = uncurry(Buffer.prototype.slice);
  defineProperty(shared, 'constructor', { value: undefined }); // which `slice` asks for: a script's getter would be handed `shared`
  const toBase64 = uncurry(Bytes.prototype.toBase64);
  const { fromBase64 } = Bytes;
  const encode = btoa, decode = atob, percent = escape, plainly = unescape, toPercent = encodeURIComponent, fromPercent = decodeURIComponent;

  function isBuffer(value) {
    try {
      lengthOf(value);
      return true;
    } catch {
      return false;
    }
  }

  function spill(buffer, length) {
    for (let at = 0; at < length; at += PART) {
      const part = min(PART, length - at);
      copyInto(space, new Bytes(buffer, at, part), 0);
      door(-part);
    }
  }

  function ask(operation, number, key, value) {
    const keyLength = lengthOf(key);
    const valueLength = lengthOf(value);
    const fits = HEADER + keyLength + valueLength <= PART;
    if (!fits) {
      spill(key, keyLength);
      spill(value, valueLength);
    }
    header[0] = operation;
    header[1] = number;
    header[2] = keyLength;
    header[3] = valueLength;
    header[4] = operations;
    header[5] = written;
    operations = 0;
    if (fits) {
      copyInto(space, new Bytes(key), HEADER);
      copyInto(space, new Bytes(value), HEADER + keyLength);
    }
    const answer = door(fits ? HEADER + keyLength + valueLength : HEADER);
    if (answer <= REFUSED) {
      const Thrown = answer === FORBIDDEN ? Mistake : answer === OUT_OF_RANGE ? Excess : Failure;
      throw new Thrown(received());
    }
    return answer;
  }

  function received() {
    const value = holder[0];
    holder[0] = undefined;
    return value;
  }

  function convert(operation, value) {
    holder[0] = value;
    ask(operation, 0, nothing, nothing);
    return received();
  }

  function expect(count, given) {
    if (given !== count) throw new Mistake(`Passed ${given} arguments, but expected ${count}`);
  }

  function needBuffer(value) {
    if (!isBuffer(value)) throw new Mistake('Argument must be an ArrayBuffer');
  }

  // Conversions.

  // The engine has no function for UTF-8, but four that make it together; for short texts they take a tenth of the way through the door.
  // What they refuse (half a surrogate pair, bytes that are not UTF-8) goes there.
  const SHORT = 4096;

  function toBuffer(text) {
    if (text.length <= SHORT) {
      try {
        return bufferOf(fromBase64(encode(plainly(toPercent(text)))));
      } catch {}
    }
    return convert(TO_BUFFER, text);
  }

  function toText(buffer) {
    if (lengthOf(buffer) <= SHORT) {
      try {
        return fromPercent(percent(decode(toBase64(new Bytes(buffer)))));
      } catch {}
    }
    return convert(TO_TEXT, buffer);
  }

  function strToBuf(text) {
    expect(1, arguments.length);
    if (typeof text !== 'string') throw new Mistake('Argument must be a string');
    return toBuffer(text);
  }

  function bufToStr(buffer) {
    expect(1, arguments.length);
    needBuffer(buffer);
    return toText(buffer);
  }

  function jsonCompatibleToBuf(value) {
    expect(1, arguments.length);
    const text = stringify(value);
    if (typeof text !== 'string') throw new Mistake('Argument must be a JSON value');
    return toBuffer(text);
  }

  function bufToJsonCompatible(buffer) {
    expect(1, arguments.length);
    needBuffer(buffer);
    return parse(toText(buffer));
  }

  // Maps.

  const opened = create(null);

  // What a run knows of keys without asking: where in `shared` a value begins (in units of 8 bytes, above 16 bits for its length), or null
  // where there is none. By number of the map and key.
  let memory;
  let written = 0; // bytes of the part WRITTEN that are in use
  let operations = 0; // since the worker was told of them last
  const NEAR_MAX = 64; // operations between two looks of the worker's, which counts them all
  const NEAR_KEY = 256; // bytes of a key
  const ENTRY = 16, REMOVED = 0xffffffff;

  function recall(number, key) {
    if (memory === undefined || operations >= NEAR_MAX || lengthOf(key) > NEAR_KEY) return undefined;
    const place = memory[number + toBase64(new Bytes(key))];
    if (place !== undefined) operations++;
    return place;
  }

  // Leave what is written for the worker; false if there is no room for it. Entries: number, lengths of key and value, value, key.
  function leave(number, key, value) {
    const keyLength = lengthOf(key);
    if (memory === undefined || keyLength > NEAR_KEY) return false;
    const keyBytes = new Bytes(key);
    const name = number + toBase64(keyBytes);
    const length = value === null ? 0 : lengthOf(value);
    const end = (written + ENTRY + length + keyLength + 7) & ~7;
    if (operations >= NEAR_MAX || length >= PART || end > PART) {
      memory[name] = undefined;
      return false;
    }
    const at = WRITTEN + written + ENTRY;
    const word = (at - ENTRY) >> 2;
    if (value !== null) copyInto(space, new Bytes(value), at);
    copyInto(space, keyBytes, at + length);
    header[word] = number;
    header[word + 1] = keyLength;
    header[word + 2] = value === null ? REMOVED : length;
    memory[name] = value === null ? null : ((at >> 3) << 16) | length;
    written = end;
    operations++;
    return true;
  }

  function open(name) {
    let code = opened[name];
    if (code === undefined) {
      holder[0] = name;
      code = opened[name] = ask(OPEN, 0, nothing, nothing);
    }
    return code;
  }

  class KvMap {
    #number;
    #rights;
    #reasons;

    constructor(name) {
      const code = open(name);
      this.#number = code >> 2;
      this.#rights = code & 3;
      this._map_name = name;
    }

    #need(right, method) {
      if (!(this.#rights & right)) {
        holder[0] = method;
        ask(OPEN, this.#number + 1, nothing, nothing);
      }
    }

    get(key) {
      expect(1, arguments.length);
      needBuffer(key);
      this.#need(READ, 'get');
      const place = recall(this.#number, key);
      if (place !== undefined) return place === null ? undefined : slice(shared, (place >> 16) << 3, ((place >> 16) << 3) + (place & 0xffff));
      return ask(GET, this.#number, key, nothing) === 1 ? received() : undefined;
    }

    has(key) {
      expect(1, arguments.length);
      needBuffer(key);
      this.#need(READ, 'has');
      const place = recall(this.#number, key);
      if (place !== undefined) return place !== null;
      return ask(HAS, this.#number, key, nothing) === 1;
    }

    set(key, value) {
      expect(2, arguments.length);
      if (!isBuffer(key) || !isBuffer(value)) throw new Mistake('Arguments must be ArrayBuffers');
      this.#need(WRITE, 'set');
      if (!leave(this.#number, key, value)) ask(SET, this.#number, key, value);
      return this;
    }

    delete(key) {
      expect(1, arguments.length);
      needBuffer(key);
      this.#need(WRITE, 'delete');
      if (!leave(this.#number, key, null)) ask(DELETE, this.#number, key, nothing);
    }

    clear() {
      expect(0, arguments.length);
      this.#need(WRITE, 'clear');
      ask(CLEAR, this.#number, nothing, nothing);
      if (memory !== undefined) memory = create(null);
    }

    get size() {
      this.#need(READ, 'size');
      return ask(SIZE, this.#number, nothing, nothing);
    }

    getVersionOfPreviousWrite(key) {
      expect(1, arguments.length);
      needBuffer(key);
      this.#need(READ, 'getVersionOfPreviousWrite');
      const version = ask(VERSION, this.#number, key, nothing);
      return version < 0 ? undefined : version;
    }

    // With bounds, which are ours: `from`, the first key, and `to`, which is beyond the last; and at most `limit` entries.
    forEach(callback, bounds) {
      if (arguments.length !== 2) expect(1, arguments.length);
      if (typeof callback !== 'function') throw new Mistake('Argument must be a function');
      this.#need(READ, 'forEach');
      if (bounds !== undefined && (typeof bounds !== 'object' || bounds === null)) throw new Mistake('Bounds must be an object');
      for (const name in bounds) {
        if (name !== 'from' && name !== 'to' && name !== 'limit') throw new Mistake(`forEach has no bound '${name}': there are from, to and limit`);
      }
      let start = bounds?.from;
      const end = bounds?.to;
      let left = bounds?.limit ?? Infinity;
      if (start !== undefined) needBuffer(start);
      if (end !== undefined) needBuffer(end);
      if (left !== Infinity && !(isInteger(left) && left >= 0)) throw new Mistake('limit must be a whole number, and not negative');
      const wanted = new Buffer(4 + lengthOf(end ?? nothing)); // is there a start, an end; how many; the end
      const asked = new Bytes(wanted);
      asked[0] = start === undefined ? 0 : 1;
      asked[1] = end === undefined ? 0 : 1;
      copyInto(asked, new Bytes(end ?? nothing), 4);
      while (left > 0) {
        const most = min(left, PAGE_MAX);
        asked[2] = most & 255;
        asked[3] = most >> 8;
        const answer = ask(PAGE, this.#number, start ?? nothing, wanted);
        const entries = received();
        const count = answer >> 1;
        start = entries[2 * count];
        asked[0] = 1;
        left -= count;
        for (let i = 0; i < count; i++) callback(entries[2 * i + 1], entries[2 * i], this);
        if (!(answer & 1)) return;
      }
    }
  }
  const PAGE_MAX = 256; // PAGE_ENTRIES_MAX of `enclave.scripts.messages`

  // An object with a map for every name.
  function mapsBy(make) {
    return new Handles(create(null), {
      get: (_, name) => (typeof name === 'string' ? make(name) : undefined),
      set: () => false,
      defineProperty: () => false,
      deleteProperty: () => false,
    });
  }

  const kv = mapsBy((name) => new KvMap(name));

  // Functions of the worker's and of the enclave's.

  // Written out by hand: an array or an object that is filled step by step runs what a script has put onto their prototypes.
  function call(operation, name, values) {
    const buffers = create(null);
    let count = 0;
    let size = 0;
    function plain(value, depth) {
      if (depth > 16) throw new Mistake('Arguments are nested too deeply');
      if (isBuffer(value)) {
        const length = lengthOf(value);
        const text = `{"$buffer":[${size},${length}]}`;
        buffers[count++] = value;
        size += length;
        return text;
      }
      if (typeof value !== 'object' || value === null) return stringify(value) ?? 'null';
      if (isView(value)) throw new Mistake('Arguments must be ArrayBuffers, not views of them: pass a copy of the bytes, as .slice().buffer');
      let text = '';
      if (isArray(value)) {
        for (let i = 0; i < value.length; i++) text += (i ? ',' : '') + plain(value[i], depth + 1);
        return `[${text}]`;
      }
      const names = keys(value);
      for (let i = 0; i < names.length; i++) {
        if (names[i] === '$buffer') throw new Mistake('An argument has a property $buffer');
        text += `${i ? ',' : ''}${stringify(names[i])}:${plain(value[names[i]], depth + 1)}`;
      }
      return `{${text}}`;
    }
    const words = toBuffer(`[${stringify(name)},${plain(values, 0)}]`);
    const all = new Buffer(size);
    const target = new Bytes(all);
    let at = 0;
    for (let i = 0; i < count; i++) {
      copyInto(target, new Bytes(buffers[i]), at);
      at += lengthOf(buffers[i]);
    }
    return ask(operation, 0, words, all) === 1 ? received() : undefined;
  }

  // Historical states. They come as one buffer (`enclave.ledger_calls` has its layout), of which a script is shown what it looks at.

  const STATES = 'historical.getStateRange';
  const STATE = 'historical.state';
  const VIEW = 'consensus.getViewForSeqno'; // null where there is none, as in CCF

  const charOf = Text.fromCharCode;

  function digits(view, at, length) {
    let text = '';
    for (let i = 0; i < length; i++) text += charOf(view[at + i]);
    return text;
  }

  function same(view, at, key, length) {
    for (let i = 0; i < length; i++) if (view[at + i] !== key[i]) return false;
    return true;
  }

  function statesIn(buffer) {
    if (buffer === undefined) return null;
    const view = new Bytes(buffer);
    const length = ((view[0] << 24) | (view[1] << 16) | (view[2] << 8) | view[3]) >>> 0;
    const { signatures, states } = parse(toText(slice(buffer, 4, 4 + length)));
    let at = 4 + length;
    const found = [];
    for (let i = 0; i < states.length; i++) {
      const head = states[i];
      element.value = new HistoricalState(buffer, view, at, head, signatures[head[2]]);
      defineProperty(found, i, element);
      at += head[3] + head[4];
    }
    element.value = undefined;
    return found;
  }
  const element = { value: undefined, writable: true, enumerable: true, configurable: true };

  class HistoricalState {
    #buffer;
    #view;
    #at;
    #head;
    #signature;
    #receipt;
    #kv;
    #places;

    constructor(buffer, view, at, head, signature) {
      this.#buffer = buffer;
      this.#view = view;
      this.#at = at;
      this.#head = head;
      this.#signature = signature;
      this.transactionId = head[0];
      defineProperty(this, 'receipt', RECEIPT);
      defineProperty(this, 'kv', KV);
    }

    static receipt(state) {
      if (state.#receipt === undefined) {
        const { cert, node_id, signature } = state.#signature;
        const rest = parse(toText(slice(state.#buffer, state.#at, state.#at + state.#head[3])));
        const receipt = (state.#receipt = { signature, cert, node_id });
        const names = keys(rest);
        for (let i = 0; i < names.length; i++) receipt[names[i]] = rest[names[i]];
      }
      return state.#receipt;
    }

    static kv(state) {
      state.#kv ??= mapsBy((name) => new HistoricalMap(state, name));
      return state.#kv;
    }

    static version(state) {
      return state.#head[1];
    }

    // What the transaction wrote to a map, as [where a key begins, where its value does, where that ends] in turn; what it removed is not there.
    static entries(state, name) {
      if (state.#places === undefined) {
        const places = (state.#places = create(null));
        const maps = state.#head[5];
        const names = keys(maps);
        let at = state.#at + state.#head[3];
        for (let i = 0; i < names.length; i++) {
          const lengths = maps[names[i]];
          const entries = (places[names[i]] = create(null));
          let count = 0;
          for (let j = 0; j < lengths.length; j += 2) {
            const middle = at + lengths[j];
            const end = middle + (lengths[j + 1] < 0 ? 0 : lengths[j + 1]);
            if (lengths[j + 1] >= 0) {
              entries[count++] = at;
              entries[count++] = middle;
              entries[count++] = end;
            }
            at = end;
          }
          entries.length = count;
        }
      }
      return state.#places[name];
    }

    static view(state) {
      return state.#view;
    }

    static part(state, from, to) {
      return slice(state.#buffer, from, to);
    }
  }
  const RECEIPT = { get() { return HistoricalState.receipt(this); }, enumerable: true, configurable: true };
  const KV = { get() { return HistoricalState.kv(this); }, enumerable: true, configurable: true };

  class HistoricalMap {
    #state;
    #entries;
    #index;

    constructor(state, name) {
      this.#state = state;
      this._map_name = name;
    }

    #open(method) {
      if (this.#entries === undefined) {
        const code = open(this._map_name);
        if (!(code & READ)) {
          holder[0] = method;
          ask(OPEN, (code >> 2) + 1, nothing, nothing);
        }
        this.#entries = HistoricalState.entries(this.#state, this._map_name) ?? none;
      }
      return this.#entries;
    }

    // Where in the entries a key is, or -1. Many keys are looked up by an index.
    #find(method, buffer) {
      const entries = this.#open(method);
      const view = HistoricalState.view(this.#state);
      const key = new Bytes(buffer);
      const length = lengthOf(buffer);
      if (entries.length > 3 * SCANNED) {
        if (this.#index === undefined) {
          this.#index = create(null);
          for (let i = 0; i < entries.length; i += 3) this.#index['k' + digits(view, entries[i], entries[i + 1] - entries[i])] = i;
        }
        return this.#index['k' + digits(key, 0, length)] ?? -1;
      }
      for (let i = 0; i < entries.length; i += 3) {
        if (entries[i + 1] - entries[i] === length && same(view, entries[i], key, length)) return i;
      }
      return -1;
    }

    get(key) {
      expect(1, arguments.length);
      needBuffer(key);
      const found = this.#find('get', key);
      return found < 0 ? undefined : HistoricalState.part(this.#state, this.#entries[found + 1], this.#entries[found + 2]);
    }

    has(key) {
      expect(1, arguments.length);
      needBuffer(key);
      return this.#find('has', key) >= 0;
    }

    getVersionOfPreviousWrite(key) {
      expect(1, arguments.length);
      needBuffer(key);
      return this.#find('getVersionOfPreviousWrite', key) < 0 ? undefined : HistoricalState.version(this.#state);
    }

    get size() {
      return this.#open('size').length / 3;
    }

    forEach(callback) {
      expect(1, arguments.length);
      if (typeof callback !== 'function') throw new Mistake('Argument must be a function');
      const entries = this.#open('forEach');
      const { part } = HistoricalState;
      for (let i = 0; i < entries.length; i += 3) {
        callback(part(this.#state, entries[i + 1], entries[i + 2]), part(this.#state, entries[i], entries[i + 1]), this);
      }
    }

    set() { return this.#refuse('set'); }
    delete() { return this.#refuse('delete'); }
    clear() { return this.#refuse('clear'); }

    #refuse(method) {
      throw new Mistake(`Cannot call ${method} on table named ${this._map_name}. All tables are read-only during historical transaction.`);
    }
  }
  const SCANNED = 32;
  const none = create(null);
  none.length = 0;

  let present;
  function historicalState() {
    present ??= statesIn(call(CALL, STATE, []))[0];
    return present;
  }

  const ccf = { strToBuf, bufToStr, jsonCompatibleToBuf, bufToJsonCompatible, kv };
  for (const method of ['enableUntrustedDateTime', 'enableMetricsLogging']) {
    let enabled = false;
    defineProperty(ccf, method, {
      value: function (enable) {
        expect(1, arguments.length);
        if (typeof enable !== 'boolean') throw new Mistake('First argument must be a boolean');
        const before = enabled;
        enabled = enable;
        return before;
      },
      writable: true, enumerable: true, configurable: true,
    });
  }
  const own = (name) => (...values) => call(OWN, name, values);

  // Most scripts use none of it, and every one would pay for making it.
  defineProperty(ccf, 'crypto', {
    get() {
      const made = {};
      const names = [
        'sign', 'verifySignature', 'digest', 'generateAesKey', 'generateRsaKeyPair', 'generateEcdsaKeyPair', 'generateEddsaKeyPair',
        'wrapKey', 'unwrapKey', 'isValidX509CertBundle', 'isValidX509CertChain',
        'pubPemToJwk', 'pemToJwk', 'pubRsaPemToJwk', 'rsaPemToJwk', 'pubEddsaPemToJwk', 'eddsaPemToJwk',
        'pubJwkToPem', 'jwkToPem', 'pubRsaJwkToPem', 'rsaJwkToPem', 'pubEddsaJwkToPem', 'eddsaJwkToPem',
      ];
      for (let i = 0; i < names.length; i++) made[names[i]] = own(names[i]);
      setCrypto(made);
      return made;
    },
    set: setCrypto, enumerable: true, configurable: true,
  });
  function setCrypto(value) {
    defineProperty(ccf, 'crypto', { value, writable: true, enumerable: true, configurable: true });
  }
  ccf.pemToId = own('pemToId');
  ccf.tcbHexToPolicy = own('tcbHexToPolicy');
  globalThis.snp_attestation = { verifySnpAttestation: own('verifySnpAttestation') };
  if (configuration.governs) {
    ccf.gov = { validateConstitution: own('gov.validateConstitution'), checkModules: own('gov.checkModules') };
  }
  // Where CCF had them before it had `ccf.crypto`.
  ccf.digest = own('digest');
  ccf.generateAesKey = own('generateAesKey');
  ccf.generateRsaKeyPair = own('generateRsaKeyPair');
  ccf.generateEcdsaKeyPair = own('generateEcdsaKeyPair');
  ccf.wrapKey = own('wrapKey');
  ccf.isValidX509CertBundle = own('isValidX509CertBundle');
  ccf.isValidX509CertChain = own('isValidX509CertChain');
  for (const name of configuration.calls) {
    if (name === STATE) {
      defineProperty(ccf, 'historicalState', { get: historicalState, enumerable: true, configurable: true });
      continue;
    }
    const parts = name.split('.');
    let place = ccf;
    for (const part of parts.slice(0, -1)) place = place[part] ??= {};
    const last = parts[parts.length - 1];
    if (name === STATES) place[last] = (...values) => statesIn(call(CALL, name, values));
    else if (name === VIEW) place[last] = (...values) => call(CALL, name, values) ?? null;
    else place[last] = (...values) => call(CALL, name, values);
  }
  globalThis.ccf = ccf;

  // Log lines.

  const log = (level) => (...values) => {
    let line = '';
    for (let i = 0; i < values.length; i++) line += (i ? ' ' : '') + (typeof values[i] === 'symbol' ? 'symbol' : Text(values[i]));
    ask(LOG, level, toBuffer(line), nothing);
  };
  globalThis.console = { log: log(0), info: log(0), debug: log(0), warn: log(1), error: log(2) };

  // Time and chance.

  const Calendar = Date;
  const construct = Reflect.construct;
  const { performance } = globalThis;
  let { time: begin, seed: state } = configuration;
  let began = performance.now();
  // A decision knows one moment; for an application time goes on, in whole milliseconds.
  const now = () => (state === null ? begin + floor(performance.now() - began) : begin);
  function FixedDate(...values) {
    if (new.target === undefined) return Text(new Calendar(now()));
    return construct(Calendar, values.length === 0 ? [now()] : values, new.target);
  }
  for (const name of ['UTC', 'parse']) defineProperty(FixedDate, name, Object.getOwnPropertyDescriptor(Calendar, name));
  defineProperty(FixedDate, 'now', { value: function now_() { return now(); }, writable: true, configurable: true });
  defineProperty(FixedDate, 'name', { value: 'Date', configurable: true });
  defineProperty(FixedDate, 'length', { value: 7, configurable: true });
  defineProperty(FixedDate, 'prototype', { value: Calendar.prototype });
  defineProperty(Calendar.prototype, 'constructor', { value: FixedDate, writable: true, configurable: true });
  globalThis.Date = FixedDate;

  Math.random = function random() {
    if (state === null) return ask(RANDOM, 0, nothing, nothing);
    // mulberry32: chance that is the same every time
    state = (state + 0x6d2b79f5) | 0;
    let t = imul(state ^ (state >>> 15), 1 | state);
    t = (t + imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  // What tells time more finely, or when memory is collected.
  delete globalThis.performance;
  delete globalThis.WeakRef;
  delete globalThis.FinalizationRegistry;
  delete globalThis.gc;

  // For the worker: a further run begins, results out.

  function again(configuration) {
    ({ time: begin, seed: state } = configuration);
    began = performance.now();
    present = memory = undefined;
    written = operations = 0;
  }

  // The same for all runs: what a module has kept of an earlier request's body reads the present one, as in CCF.
  let bodyNow;
  const readText = () => bufToStr(bodyNow);
  const readJson = () => bufToJsonCompatible(bodyNow);
  const readBytes = () => bodyNow;

  function request(object, body, content) {
    if (content !== undefined) {
      const caller = object.caller;
      const signer = caller.user_cose_sign1 ?? caller.member_cose_sign1 ?? caller;
      signer.cose = { content };
    }
    bodyNow = body;
    object.body = { text: readText, json: readJson, arrayBuffer: readBytes };
    return object;
  }

  function bytesOf(view) {
    const parts = typedTag(view) === undefined ? dataParts : typedParts;
    const length = parts[2](view);
    const copy = new Buffer(length);
    copyInto(new Bytes(copy), new Bytes(parts[0](view), parts[1](view), length));
    return copy;
  }

  function describe(value) {
    if (value === undefined) return ['undefined', ''];
    if (typeof value === 'string') return ['text', value];
    if (isBuffer(value)) return ['bytes', value];
    if (isView(value)) return ['bytes', bytesOf(value)];
    const text = stringify(value);
    return text === undefined ? ['undefined', ''] : ['json', text];
  }

  // A response as [kind, data, status, headers in JSON]; or [why it is none, what was thrown meanwhile].
  function respond(value) {
    if (typeof value !== 'object' || value === null) return ['not an object', ''];
    let { statusCode, headers, body } = value;
    let described;
    try {
      described = describe(body);
    } catch (thrown) {
      return ['error during JSON conversion of body', textOf(thrown)];
    }
    let pairs = '';
    if (typeof headers === 'object' && headers !== null) {
      const names = keys(headers);
      for (let i = 0; i < names.length; i++) {
        const text = textOf(headers[names[i]]);
        if (text === undefined) return ['header value type', ''];
        pairs += `${i ? ',' : ''}[${stringify(names[i])},${stringify(text)}]`;
      }
    }
    statusCode ??= 200;
    if (!isInteger(statusCode) || statusCode !== (statusCode | 0)) return ['status code type', ''];
    return [described[0], described[1], statusCode, `[${pairs}]`];
  }

  function textOf(value) {
    if (typeof value === 'symbol') return undefined;
    try {
      return Text(value);
    } catch {
      return undefined;
    }
  }

  // All of an endpoint's run at once. `settings`: time, chance, request, how many bytes of GIVEN are its body (or null: it is an argument), and
  // what it is expected to read, as map, key in base64, where in GIVEN the value begins, how long it is (or null: there is none). Gives what
  // `tell` does, or a promise of the response.
  function endpoint(main, settings, body, content) {
    begin = settings[0];
    began = performance.now();
    state = settings[1];
    present = undefined;
    written = operations = 0;
    memory = create(null);
    const expected = settings[4];
    for (let i = 0; i < expected.length; i += 4) {
      const code = opened[expected[i]]; // what is not open yet, the worker knows
      if (code === undefined) continue;
      const length = expected[i + 3];
      memory[(code >> 2) + expected[i + 1]] = length === null ? null : (((GIVEN + expected[i + 2]) >> 3) << 16) | length;
    }
    const value = main(request(settings[2], settings[3] === null ? body : slice(shared, GIVEN, GIVEN + settings[3]), content));
    return typeof value === 'object' && value !== null && inherits(promised, value) ? value : tell(value);
  }

  // A response as one text: kind, status, headers and body, a line each; a body of bytes goes beside it. Or as `respond`, if it is none.
  function tell(value) {
    const response = respond(value);
    header[4] = operations;
    header[5] = written;
    if (response.length === 2) return response;
    const head = `${response[0]}\n${response[2]}\n${response[3]}\n`;
    return response[0] === 'bytes' ? [head, response[1]] : head + response[1];
  }

  return [describe, tell, again, endpoint];
})
