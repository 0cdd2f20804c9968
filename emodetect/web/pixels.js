// Pictures as OpenCV treats them, so that the browser's engine sees what the Python detector sees (nbs/15_detector.ipynb).
// A picture is {data, width, height}: RGB bytes, row by row, without gaps.

export const GREY = 114; // around a picture that is no square, as in training

/** Python's round: a half goes to the even neighbour. */
export function round(value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 !== 0 ? near - 1 : near;
}

/** The RGB bytes of a canvas's RGBA bytes. */
export function withoutAlpha({ data, width, height }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { data: rgb, width, height };
}

const SIDE = 16, SLIGHT = 2; // pixels; grey levels

/** Whether what is read from a canvas is what was drawn: browsers that hide from pages which device they run on may give noise. A slight change, as some make, does no harm. */
export function readsTrue(canvas) {
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  const colours = Array.from({ length: SIDE * SIDE }, (_, place) => [place, (7 * place) % 256, 255 - place]);
  colours.forEach((colour, place) => {
    context.fillStyle = `rgb(${colour})`;
    context.fillRect(place % SIDE, Math.floor(place / SIDE), 1, 1);
  });
  const { data } = withoutAlpha(context.getImageData(0, 0, SIDE, SIDE));
  return colours.flat().every((value, place) => Math.abs(value - data[place]) <= SLIGHT);
}

/** A picture of another size: by the mean of the area that each new pixel covers, or bilinear. */
export function resize(picture, width, height, area) {
  if (picture.width === width && picture.height === height) return picture;
  return area ? shrunk(picture, width, height) : interpolated(picture, width, height);
}

const ONE = 2048; // OpenCV's bilinear weights are whole numbers of 1/2048

/** Beside which two old pixels the centre of each new one lies, and their weights; beyond the edge is the last pixel. */
function neighbours(from, to, alone) {
  const first = new Int32Array(to), second = new Int32Array(to), near = new Int32Array(to), far = new Int32Array(to);
  for (let place = 0; place < to; place++) {
    const centre = Math.fround((place + 0.5) * (from / to) - 0.5), left = Math.floor(centre);
    const beyond = alone && (left < 0 || left >= from - 1);
    const share = beyond ? 0 : Math.fround(centre - left);
    first[place] = Math.min(Math.max(left, 0), from - 1);
    second[place] = Math.min(Math.max(left + 1, 0), from - 1);
    near[place] = round((1 - share) * ONE);
    far[place] = round(share * ONE);
  }
  return { first, second, near, far };
}

function interpolated({ data, width, height }, newWidth, newHeight) {
  const columns = neighbours(width, newWidth, true), rows = neighbours(height, newHeight, false);
  const line = newWidth * 3, wide = new Int32Array(line * height), resized = new Uint8Array(line * newHeight);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      const first = (y * width + columns.first[x]) * 3, second = (y * width + columns.second[x]) * 3;
      for (let channel = 0; channel < 3; channel++) wide[to++] = data[first + channel] * columns.near[x] + data[second + channel] * columns.far[x];
    }
  }
  for (let y = 0, to = 0; y < newHeight; y++) {
    const first = rows.first[y] * line, second = rows.second[y] * line, near = rows.near[y], far = rows.far[y];
    for (let x = 0; x < line; x++) resized[to++] = (((near * (wide[first + x] >> 4)) >> 16) + ((far * (wide[second + x] >> 4)) >> 16) + 2) >> 2;
  }
  return { data: resized, width: newWidth, height: newHeight };
}

/** Which old pixels each new one covers (from start[place] to before start[place + 1] of the lists), and with which weights. */
function covered(from, to) {
  const start = [0], pixels = [], weights = [], scale = from / to;
  for (let place = 0; place < to; place++) {
    const left = place * scale, right = Math.min(left + scale, from);
    for (let pixel = Math.floor(left + 1e-3); pixel < right - 1e-3; pixel++) {
      pixels.push(pixel);
      weights.push((Math.min(pixel + 1, right) - Math.max(pixel, left)) / (right - left));
    }
    start.push(pixels.length);
  }
  return { start: Int32Array.from(start), pixels: Int32Array.from(pixels), weights: Float32Array.from(weights) };
}

function shrunk({ data, width, height }, newWidth, newHeight) {
  const columns = covered(width, newWidth), rows = covered(height, newHeight);
  const line = newWidth * 3, wide = new Float32Array(line * height), resized = new Uint8ClampedArray(line * newHeight);
  for (let y = 0; y < height; y++) {
    for (let x = 0, to = y * line; x < newWidth; x++, to += 3) {
      for (let one = columns.start[x]; one < columns.start[x + 1]; one++) {
        const weight = columns.weights[one], from = (y * width + columns.pixels[one]) * 3;
        wide[to] += weight * data[from];
        wide[to + 1] += weight * data[from + 1];
        wide[to + 2] += weight * data[from + 2];
      }
    }
  }
  const halves = width === 2 * newWidth && height === 2 * newHeight ? 1 / 8 : 0; // there a half is rounded up, elsewhere to the even neighbour
  const sum = new Float32Array(line);
  for (let y = 0; y < newHeight; y++) {
    sum.fill(halves);
    for (let one = rows.start[y]; one < rows.start[y + 1]; one++) {
      const weight = rows.weights[one], from = rows.pixels[one] * line;
      for (let x = 0; x < line; x++) sum[x] += weight * wide[from + x];
    }
    resized.set(sum, y * line); // a clamped array rounds as OpenCV does
  }
  return { data: resized, width: newWidth, height: newHeight };
}

/** The square around a tilted head (degrees, clockwise), turned so that it is upright; beyond the edge is the last pixel, or grey. */
export function upright({ data, width, height }, x, y, tilt, scale, size, grey = false) {
  const angle = (tilt * Math.PI) / 180, across = Math.cos(angle) / scale, down = Math.sin(angle) / scale, square = new Uint8ClampedArray(size * size * 3);
  const inside = (value, length) => Math.min(Math.max(value, 0), length - 1);
  const beyond = (column, row) => grey && (column < 0 || row < 0 || column >= width || row >= height);
  for (let row = 0, to = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const right = column - size / 2, below = row - size / 2;
      const fromX = x + across * right - down * below, fromY = y + down * right + across * below;
      const left = Math.floor(fromX), top = Math.floor(fromY), far = fromX - left, low = fromY - top;
      for (let channel = 0; channel < 3; channel++) {
        const pixel = (one, other) => (beyond(one, other) ? GREY : data[(inside(other, height) * width + inside(one, width)) * 3 + channel]);
        const above = pixel(left, top) * (1 - far) + pixel(left + 1, top) * far;
        square[to++] = above * (1 - low) + (pixel(left, top + 1) * (1 - far) + pixel(left + 1, top + 1) * far) * low; // a clamped array rounds
      }
    }
  }
  return { data: square, width: size, height: size };
}

/** A part of a picture; what lies outside of the picture is grey. */
export function part({ data, width, height }, left, top, newWidth, newHeight) {
  const cut = new Uint8Array(newWidth * newHeight * 3).fill(GREY);
  const start = Math.max(left, 0), end = Math.min(left + newWidth, width);
  for (let y = Math.max(top, 0); y < Math.min(top + newHeight, height) && start < end; y++) {
    cut.set(data.subarray((y * width + start) * 3, (y * width + end) * 3), ((y - top) * newWidth + start - left) * 3);
  }
  return { data: cut, width: newWidth, height: newHeight };
}

/** The whole picture in a square, centred on grey; and how it was placed there. */
export function letterbox(picture, size) {
  const scale = Math.min(size / picture.height, size / picture.width);
  const width = Math.max(round(picture.width * scale), 1), height = Math.max(round(picture.height * scale), 1);
  const left = round((size - round(picture.width * scale)) / 2 - 0.1), top = round((size - round(picture.height * scale)) / 2 - 0.1);
  return { square: part(resize(picture, width, height, false), -left, -top, size, size), scale, left, top };
}

/** The upright square around a face, of which the face's side is `share`; and its pixels for one of the picture. */
export function cutOut(picture, face, share, size) {
  const [x, y] = [face.x * picture.width, face.y * picture.height];
  const side = Math.max(Math.sqrt(face.width * picture.width * face.height * picture.height) / share, 1), whole = Math.max(round(side), 1);
  const square = face.tilt ? upright(picture, x, y, face.tilt, 1, whole, true) : part(picture, round(x - side / 2), round(y - side / 2), whole, whole);
  return { square: resize(square, size, size, whole > size), scale: size / whole };
}
