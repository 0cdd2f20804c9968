// What the page must read in an ONNX file, and the one thing that it must change. ONNX is protobuf: fields of number, kind and content.

/** The fields of a message: {number, content, start, end}; the content of a text or message is a view of its bytes. */
function* fields(bytes) {
  let place = 0;
  const varint = () => {
    let value = 0, factor = 1;
    for (;;) {
      if (place >= bytes.length) throw new Error("the file is cut off");
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  };
  while (place < bytes.length) {
    const start = place, tag = varint(), number = Math.floor(tag / 8), kind = tag % 8;
    let content;
    if (kind === 0) content = varint();
    else {
      const length = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
      if (length === undefined || place + length > bytes.length) throw new Error("the file is not ONNX");
      content = bytes.subarray(place, place += length);
    }
    yield { number, content, start, end: place };
  }
}

const text = (bytes) => new TextDecoder().decode(bytes);
const GRAPH = 7, METADATA = 14; // of a model
const INPUT = 11, OUTPUT = 12, VALUE = 13; // of a graph
const NAME = 1; // of an input or output
const FLOATS = [0x12, 4, 0x0a, 2, 8, 1]; // its type: 32-bit numbers, of any shape

/** The metadata of a model: its texts by their keys. */
export function metadata(model) {
  const found = {};
  for (const { number, content } of fields(model)) {
    if (number !== METADATA) continue;
    const entry = [...fields(content)];
    const get = (wanted) => text(entry.find((field) => field.number === wanted)?.content ?? new Uint8Array());
    found[get(1)] = get(2);
  }
  return found;
}

/** A field of bytes in front of which its number and length are written. */
function written(number, parts) {
  const length = parts.reduce((sum, one) => sum + one.length, 0), head = [number * 8 + 2];
  for (let rest = length; ; rest = Math.floor(rest / 128)) {
    head.push(rest >= 128 ? (rest % 128) + 128 : rest);
    if (rest < 128) break;
  }
  return [Uint8Array.from(head), ...parts];
}

/** The same model without the sizes of its tensors: it then takes pictures of every size. */
export function ofAnySize(model) {
  const parts = [...fields(model)].flatMap(({ number, content, start, end }) => {
    if (number !== GRAPH) return [model.subarray(start, end)];
    return written(GRAPH, [...fields(content)].flatMap((field) => {
      if (field.number === VALUE) return [];
      if (field.number !== INPUT && field.number !== OUTPUT) return [content.subarray(field.start, field.end)];
      const name = [...fields(field.content)].find((one) => one.number === NAME);
      return written(field.number, [field.content.subarray(name.start, name.end), Uint8Array.from(FLOATS)]);
    }));
  });
  const whole = new Uint8Array(parts.reduce((sum, one) => sum + one.length, 0));
  parts.reduce((place, one) => (whole.set(one, place), place + one.length), 0);
  return whole;
}
