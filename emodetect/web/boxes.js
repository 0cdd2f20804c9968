// Boxes are {left, top, right, bottom}.

const area = (box) => (box.right - box.left) * (box.bottom - box.top);

/** Intersection over union, 0 to 1. */
export function agreement(first, second) {
  const width = Math.min(first.right, second.right) - Math.max(first.left, second.left);
  const height = Math.min(first.bottom, second.bottom) - Math.max(first.top, second.top);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  return shared / Math.max(area(first) + area(second) - shared, 1e-9);
}

/** The best of boxes that overlap, the best first (non-maximum suppression); `limit` counts before. */
export function best(boxes, score, most, limit = Infinity) {
  const kept = [];
  for (const box of [...boxes].sort((one, other) => score(other) - score(one)).slice(0, limit)) {
    if (kept.every((other) => agreement(box, other) <= most)) kept.push(box);
  }
  return kept;
}
