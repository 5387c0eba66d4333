// Maps of anything, by converters of keys and values.

export const text = { encode: (value) => ccf.strToBuf(value), decode: (buffer) => ccf.bufToStr(buffer) };
export const json = { encode: (value) => ccf.jsonCompatibleToBuf(value), decode: (buffer) => ccf.bufToJsonCompatible(buffer) };

class TypedMap {
  #map;
  #key;
  #value;

  constructor(map, key, value) {
    this.#map = map;
    this.#key = key;
    this.#value = value;
  }

  get(key) {
    const found = this.#map.get(this.#key.encode(key));
    return found === undefined ? undefined : this.#value.decode(found);
  }

  set(key, value) {
    this.#map.set(this.#key.encode(key), this.#value.encode(value));
    return this;
  }

  forEach(callback) {
    this.#map.forEach((value, key, map) => callback(this.#value.decode(value), this.#key.decode(key), map));
  }
}

export const typed = (name, key, value) => new TypedMap(ccf.kv[name], key, value);
