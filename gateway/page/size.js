// Sizes to choose from, made from what the model takes.

const SHAPES = [[1, 1], [4, 3], [3, 2], [16, 9], [3, 4], [2, 3], [9, 16]];

/** Width and height of a shape with about the area of the model's own size. */
function fit([across, down], defaults, limits) {
  const area = Math.min(defaults.width * defaults.height, limits.max_pixels);
  const round = (side) => {
    const whole = Math.round(side / limits.side_multiple) * limits.side_multiple;
    return Math.min(Math.max(whole, limits.min_side), limits.max_side);
  };
  const unit = Math.sqrt(area / (across * down));
  const size = { width: round(unit * across), height: round(unit * down), shape: `${across}:${down}` };
  while (size.width * size.height > limits.max_pixels) shrink(size, limits.side_multiple);
  return size;
}

function shrink(size, by) {
  if (size.width > size.height) size.width -= by;
  else size.height -= by;
}

/** One size for each shape; those that come out alike, once. */
export function presets({ defaults, limits }) {
  const sizes = SHAPES.map((shape) => fit(shape, defaults, limits));
  return sizes.filter((size, at) => sizes.findIndex((other) => same(size, other)) === at);
}

export const same = (a, b) => Number(a.width) === Number(b.width) && Number(a.height) === Number(b.height);
